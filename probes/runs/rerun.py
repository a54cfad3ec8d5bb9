"""Runs a result again and reports whether it is reproduced (D16)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from indexer.errors import StoreError, sentence
from indexer.jsonable import jsonable
from indexer.store.table import EmbeddingStore
from probes.cohort.load import Source
from probes.progress import Stages
from probes.runs.bundle import Bundle, bundle_of, read_bundle
from probes.runs.compare import Comparison, compare
from probes.runs.compare_levels import compare_levels
from probes.runs.outcome import package_versions
from probes.runs.result import ProbeResult
from probes.runs.review.reviewed import run_reviewed

TOLERANCE = 1e-9  # of metrics
WEIGHTS_TOLERANCE = 1e-6  # of weights, relative to the largest
SHOWN = 10
COMPARED = (
    "flow", "split", "positive", "audit", "selection", "baselines", "test", "without_duplicates", "patients",
    "confusion", "calibration", "temperature", "operating", "subgroups", "gaps", "neighbours", "folds", "few_shot",
    "shuffled_auc", "review", "numbers", "survival",
)  # fmt: skip


COMPARED_TABLES = ("metric", "rows", "unmatched", "differences", "delong_p")


@dataclass(frozen=True)
class Rerun:
    """The comparison of two runs. `changed`: changes that may explain a difference."""

    reproduced: bool
    largest_difference: float  # over all numbers of the result
    weights_difference: float | None  # relative; None without a bundle beside the result
    differences: tuple[str, ...]  # the first few
    changed: tuple[str, ...]
    version: int  # of the table; for a comparison, of the first


def rerun(old: ProbeResult, *, db: str | None = None, bundle: Path | None = None, progress: Stages) -> Rerun:
    """Run `old`'s request on the table version it was made from, or on the newest where that version is gone."""
    from probes.runs.nested import run_nested

    where = old.source.db if db is None else db
    version, changed = _version(where, old.source)
    request = replace(old.request, db=where, table=old.source.table, version=version)
    weights: float | None = None
    if request.split_is_folds:
        new = run_nested(request, progress)
    else:
        outcome = run_reviewed(request, progress)
        new = outcome.result
        if bundle is not None:
            weights = _weights_difference(read_bundle(bundle), bundle_of(outcome))
    return _verdict(list(_result_differences(old, new)), weights, changed + _changes(old, new), new.source.version)


def rerun_comparison(old: Comparison, *, db: str | None = None, progress: Stages) -> Rerun:
    """Compare the same tables, or levels, again, each at its stored version."""
    first = old.results[0]
    where = first.source.db if db is None else db
    found = [_version(where, result.source) for result in old.results]
    request = replace(first.request, db=where)
    if old.cases:
        own = replace(request, table=first.source.table, version=found[0][0])
        new, _ = compare_levels(own, old.names, old.metric, progress)
    else:
        new, _ = compare(request, old.names, old.metric, progress, [version for version, _ in found])
    differences = [
        each for field in COMPARED_TABLES for each in _differences(field, getattr(old, field), getattr(new, field))
    ]
    changed = [note for _, notes in found for note in notes]
    for name, before, after in zip(old.names, old.results, new.results, strict=True):
        differences += _result_differences(before, after, f"{name}.")
        changed += _changes(before, after)
    return _verdict(differences, None, list(dict.fromkeys(changed)), new.results[0].source.version)


def _version(db: str, source: Source) -> tuple[int, list[str]]:
    """The result's table version and notes; where that version is gone or was reused, the newest, with a note."""
    newest = EmbeddingStore.open(db, source.table)
    try:
        newest.at(source.version, identity=source.identity, commit=source.commit)
    except StoreError as error:
        return newest.version, [f"{sentence(error)}; this is version {newest.version}"]
    if not source.commit:
        return source.version, ["the result names its table version by number only: the table may be another since"]
    return source.version, []


def _verdict(found: list[tuple[str, float]], weights: float | None, changed: list[str], version: int) -> Rerun:
    wide = [text for text, size in found if size > TOLERANCE]
    same = not wide and (weights is None or weights <= WEIGHTS_TOLERANCE)
    largest = max((size for _, size in found), default=0.0)
    return Rerun(same, largest, weights, tuple(wide[:SHOWN]), tuple(changed), version)


def _result_differences(old: ProbeResult, new: ProbeResult, stem: str = "") -> Iterator[tuple[str, float]]:
    for field in COMPARED:
        yield from _differences(stem + field, getattr(old, field), getattr(new, field))


def _changes(old: ProbeResult, new: ProbeResult) -> list[str]:
    out = []
    if old.format != new.format:
        out.append(f"result format {old.format} → {new.format}: an older version of this package made the result")
    if old.source.fingerprint != new.source.fingerprint:
        out.append(f"encoder {old.source.fingerprint} → {new.source.fingerprint}")
    if old.split.sha256 != new.split.sha256:
        out.append("the split: rows or their parts differ")
    here = package_versions()
    out += [f"{name} {v} → {here.get(name)}" for name, v in old.packages.items() if here.get(name) != v]
    return out


def _differences(path: str, old: Any, new: Any) -> Iterator[tuple[str, float]]:
    """(description, size) of every leaf that differs; infinity where it is not a number."""
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
