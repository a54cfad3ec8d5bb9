"""Published protocols as changes to a request (D6; Radford 2021 A.3). A preset fixes what it names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from indexer.errors import ProbeError
from probes.records import Request

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "dino": ("knn", {"scaling": "none", "vote": "softmax", "temperature": 0.07, "k": 20}),
    "medmnist": ("knn", {"scaling": "raw", "metric": "euclidean", "vote": "uniform", "k": 11}),
    "uni": ("knn", {"scaling": "center_l2", "vote": "uniform", "k": 20}),
    "clip": ("linear", {"scaling": "raw"}),
}


def with_preset(request: Request) -> Request:
    """The request as its preset has it. Raises ProbeError where the preset is of another probe."""
    if request.preset is None:
        return request
    probe, changes = PRESETS[request.preset]
    if probe != request.probe:
        raise ProbeError(f"preset {request.preset} is of `probes {probe}`, not of `probes {request.probe}`.")
    return replace(request, **changes)
