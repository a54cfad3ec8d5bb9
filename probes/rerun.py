"""Running a result again, and saying whether it came out the same (D16)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from indexer.errors import StoreError
from indexer.options import jsonable
from indexer.store.store import EmbeddingStore
from probes.bundle import Bundle, bundle_of, read_bundle
from probes.progress import Progress
from probes.records import ProbeResult
from probes.run import package_versions, run

TOLERANCE = 1e-9  # of metrics
WEIGHTS_TOLERANCE = 1e-6  # of weights, relative to the largest
SHOWN = 10
COMPARED = (
    "flow", "split", "audit", "selection", "baselines", "test", "without_duplicates", "patients", "confusion",
    "calibration", "temperature", "operating", "subgroups", "gaps", "neighbours", "folds", "few_shot", "shuffled_auc",
)  # fmt: skip


@dataclass(frozen=True)
class Rerun:
    """The comparison. `changed` names what may explain a difference."""

    reproduced: bool
    largest_difference: float  # of any number of the result
    weights_difference: float | None  # relative; None without a bundle beside the result
    differences: tuple[str, ...]  # the first ones
    changed: tuple[str, ...]
    version: int


def rerun(old: ProbeResult, *, db: str | None = None, bundle: Path | None = None, progress: Progress) -> Rerun:
    """Run `old`'s request on the table version it was made from, or on the newest where that version is gone."""
    from probes.nested import run_nested

    request = replace(old.request, db=db or old.source.db, table=old.source.table, version=old.source.version)
    changed = []
    try:
        EmbeddingStore.open(request.db, request.table).at(old.source.version)
    except StoreError:
        newest = EmbeddingStore.open(request.db, request.table)
        request = replace(request, version=newest.version)
        changed.append(f"table version {old.source.version} is gone; this is version {newest.version}")
    weights: float | None = None
    if request.split == "nested":
        new = run_nested(request, progress)
    else:
        outcome = run(request, progress)
        new = outcome.result
        if bundle is not None:
            weights = _weights_difference(read_bundle(bundle), bundle_of(outcome))
    found = [d for field in COMPARED for d in _differences(field, getattr(old, field), getattr(new, field))]
    changed += _changes(old, new)
    wide = [text for text, size in found if size > TOLERANCE]
    same = not wide and (weights is None or weights <= WEIGHTS_TOLERANCE)
    largest = max((size for _, size in found), default=0.0)
    return Rerun(same, largest, weights, tuple(wide[:SHOWN]), tuple(changed), new.source.version)


def _changes(old: ProbeResult, new: ProbeResult) -> list[str]:
    out = []
    if old.source.fingerprint != new.source.fingerprint:
        out.append(f"encoder {old.source.fingerprint} → {new.source.fingerprint}")
    if old.split.sha256 != new.split.sha256:
        out.append("the split: rows or their parts differ")
    here = package_versions()
    out += [f"{name} {v} → {here.get(name)}" for name, v in old.packages.items() if here.get(name) != v]
    return out


def _differences(path: str, old: Any, new: Any) -> Iterator[tuple[str, float]]:
    """(where and what, size) of every leaf that differs; a size of infinity where it is no number."""
    old, new = (jsonable(v) for v in (old, new))
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        for key in old:
            yield from _differences(f"{path}.{key}", old[key], new[key])
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, pair in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{path}[{i}]", *pair)
    elif old != new:
        numbers = isinstance(old, (int, float)) and isinstance(new, (int, float))
        yield f"{path}: {old} → {new}", abs(old - new) if numbers else math.inf


def _weights_difference(old: Bundle, new: Bundle) -> float:
    worst = 0.0
    for name, array in old.model.arrays.items():
        other = new.model.arrays.get(name)
        if other is None or other.shape != array.shape:
            return math.inf
        if array.dtype.kind != "f":
            worst = max(worst, 0.0 if np.array_equal(array, other) else math.inf)
        elif array.size:
            largest = max(float(np.abs(array).max()), 1e-300)
            worst = max(worst, float(np.abs(array - other).max()) / largest)
    return worst
