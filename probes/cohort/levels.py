"""D19: pools the rows of each series, slide or patient to one case before anything is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.errors import ProbeError
from indexer.groups.pooling import pool_rows
from indexer.types import Bool, Int64
from probes.cohort.scaling import Vectors
from probes.cohort.truth import Truth
from probes.cohort.vectors import check_vectors
from probes.request import ProbeRequest

if TYPE_CHECKING:
    from probes.cohort.load import ProbeData

SHOWN = 3  # cases named in an error


def by_level(data: ProbeData, cases: Int64, names: tuple[str, ...], request: ProbeRequest) -> ProbeData:
    """One row for each case; `cases` (n,) are each row's case as a place in `names`, -1 for none.

    The rows of a case must agree in label, group, split and subgroups. Raises ProbeError, with the way out.
    """
    level = request.level
    if (cases < 0).any():
        examples = ", ".join(data.keys[i] for i in np.flatnonzero(cases < 0)[:SHOWN])
        raise ProbeError(
            f"{int((cases < 0).sum())} labelled rows have no {level} (e.g. {examples}). Leave them out with "
            f"--where '\"{level}\" IS NOT NULL', or name another --level."
        )
    first = np.full(len(names), len(cases), np.int64)
    np.minimum.at(first, cases, np.arange(len(cases)))

    def agree(values: Sequence[Any] | Int64, what: str, way_out: str) -> None:
        codes = np.unique(np.array([str(v) for v in values]), return_inverse=True)[1]
        _require(codes == codes[first][cases], cases, names, f"{level} has rows of several {what}", way_out)

    truth = _truth(data.truth, cases, first, names, request)
    if request.group != "none":
        agree(data.groups, f"values of {request.group}", "Correct the column, or name a finer --level")
    if data.split_values is not None:
        agree(data.split_values, f"values of {request.split}", "Correct the split column, or use --split hash")
    for name, values in data.subgroups.items():
        agree(values, f"values of {name}", f"Leave {name} out of --subgroup")
    for name, values in data.confounders.items():
        agree(values, f"values of {name}", f"Leave {name} out of --confounder")
    units, _ = pool_rows(data.vectors.unit, cases, len(names), request.pool)
    check_vectors(Vectors(units), names)
    alone = request.group == "none"
    return replace(
        data,
        vectors=Vectors(units),
        truth=truth,
        keys=names,
        groups=np.arange(len(names)) if alone else data.groups[first],
        group_names=names if alone else data.group_names,
        content=_contents(data.content, cases, len(names)),
        split_values=None if data.split_values is None else tuple(data.split_values[i] for i in first),
        subgroups={name: tuple(values[i] for i in first) for name, values in data.subgroups.items()},
        confounders={name: tuple(values[i] for i in first) for name, values in data.confounders.items()},
        flow=replace(data.flow, cases=len(names)),
    )


def _truth(truth: Truth, cases: Int64, first: Int64, names: Sequence[str], request: ProbeRequest) -> Truth:
    """The one truth of each case; of a label, that of the rows where it is known."""
    way_out = "Label by a finer --level, or leave those rows out with --where"
    if truth.numbers is not None:
        same = truth.numbers == truth.numbers[first][cases]
        if truth.events is not None:
            same &= truth.events == truth.events[first][cases]
        _require(same, cases, names, f"{request.level} has rows of several values of {request.labels[0]}", way_out)
        return truth.take(first)
    if truth.codes is not None:
        same = truth.codes == truth.codes[first][cases]
        _require(same, cases, names, f"{request.level} has rows of several classes of {request.labels[0]}", way_out)
        return truth.take(first)
    positive, known = (np.zeros((len(names), len(truth.classes)), bool) for _ in range(2))
    np.logical_or.at(positive, cases, truth.positive & truth.known)
    np.logical_or.at(known, cases, truth.known)
    same = (truth.positive == positive[cases]) | ~truth.known
    _require(same.all(axis=1), cases, names, f"{request.level} has rows of both values of a label", way_out)
    return Truth(truth.classes, positive, known, None)


def _require(same: Bool, cases: Int64, names: Sequence[str], what: str, way_out: str) -> None:
    wrong = np.unique(cases[~same])
    if len(wrong):
        examples = ", ".join(names[i] for i in wrong[:SHOWN])
        raise ProbeError(f"{len(wrong)} times a {what} (e.g. {examples}). {way_out}.")


def _contents(content: Int64, cases: Int64, count: int) -> Int64:
    """Equal ids (count,) where two cases have the same image bytes in their rows, in any order."""
    order = np.lexsort((content, cases))
    parts = np.split(content[order], np.cumsum(np.bincount(cases, minlength=count))[:-1])
    known: dict[bytes, int] = {}
    return np.array([known.setdefault(part.tobytes(), len(known)) for part in parts], np.int64)
