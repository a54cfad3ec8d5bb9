"""Where a figure comes from: every JSON under benchmarks/results says on which processor and with which versions it was
measured."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

PACKAGES = (
    "embedding-indexer", "torch", "torchvision", "open_clip_torch", "timm", "numpy", "pyarrow", "pylance", "lancedb",
    "faiss-cpu", "rabitqlib", "scikit-learn", "scipy", "statsmodels", "webdataset", "pillow", "simplejpeg", "tifffile",
    "pydicom", "python-gdcm", "pyjpegls", "pylibjpeg-openjpeg", "openslide-bin", "openvino", "nncf", "ray", "obstore",
    "fastapi", "uvicorn",
)  # fmt: skip


def provenance(device: str = "cpu") -> dict[str, Any]:
    return {"machine": machine(device), "versions": versions()}


def write(path: Path, result: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    """`result` with its provenance, as it now stands in the JSON file `path`."""
    whole = result | provenance(device)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return whole


def versions() -> dict[str, str]:
    """Of those of our packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine(device: str = "cpu") -> dict[str, Any]:
    """`load_15_minutes` includes this run's own load: above the number of cores, others were busy too."""
    import torch

    model = next((x.split(":")[1].strip() for x in _cpuinfo() if x.startswith("model name")), platform.processor())
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if device != "cpu" else []
    cores = len(os.sched_getaffinity(0))
    return {"cpu": model, "cores": cores, "gpus": names, "load_15_minutes": os.getloadavg()[2]}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []
