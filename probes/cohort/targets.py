"""Reads numbers, and times with their events, as the truth of a probe (D36, D37)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from indexer.errors import ProbeError
from indexer.types import Float64, Int64
from probes.cohort.truth import Truth, number_truth, survival_truth

FEWEST_GROUPS = 5  # of val rows with numbers, below which folds of train choose in their place
FEWEST_EVENTS = 10  # of val rows, likewise


def read_numbers(table: pa.Table, name: str, *, frozen: bool) -> tuple[Int64, Truth]:
    """Indices (m,) of the rows with a number, and their numbers. Raises ProbeError where there is nothing to learn;
    rows for a `frozen` probe only need a number.
    """
    values = _numbers(table, name, "--numeric takes")
    labelled = np.flatnonzero(~np.isnan(values))
    values = values[labelled]
    if not len(values):
        raise ProbeError(f"column {name} has no value in any of these rows. Join labels with `indexer labels`.")
    if (values == values[0]).all() and not frozen:
        raise ProbeError(
            f"column {name} holds one value only ({values[0]:g}): nothing can be learnt. "
            "Name another column with --label, or take in more rows (--where)."
        )
    return labelled, number_truth(values, name)


def read_survival(table: pa.Table, time: str, event: str, *, frozen: bool) -> tuple[Int64, Truth]:
    """Indices (m,) of the rows with a time and an event (1, or 0 for censored), and these. Raises ProbeError; rows for
    a `frozen` probe only need both.
    """
    times, events = _numbers(table, time, "--time takes"), _numbers(table, event, "--event takes")
    wrong = events[~np.isnan(events) & (events != 0) & (events != 1)]
    if len(wrong):
        raise ProbeError(f"column {event} holds {wrong[0]:g}: --event takes 1 for an event and 0 for a censored time.")
    known = ~np.isnan(times) & ~np.isnan(events)
    if (times[known] < 0).any():
        raise ProbeError(
            f"column {time} holds {times[known].min():g}: a time cannot be negative. Correct it, or leave such rows "
            f"out with --where '\"{time}\" >= 0'."
        )
    labelled = np.flatnonzero(known)
    if not len(labelled):
        raise ProbeError(f"no row has both {time} and {event}. Join labels with `indexer labels`.")
    if frozen:
        return labelled, survival_truth(times[labelled], events[labelled] == 1)
    if not events[labelled].any():
        raise ProbeError(f"column {event} holds no event (1) in any of these rows. Name another one with --event.")
    if (times[labelled] == times[labelled[0]]).all():
        raise ProbeError(f"column {time} holds one time only: nothing can be learnt. Name another one with --time.")
    return labelled, survival_truth(times[labelled], events[labelled] == 1)


def _numbers(table: pa.Table, name: str, asked: str) -> Float64:
    """The column in float64 (n,), NaN where there is no value. Raises ProbeError for text, dates and infinity."""
    column = table.column(name)
    kind = column.type
    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not plain and not pa.types.is_null(kind):
        raise ProbeError(
            f"column {name} is {kind}: {asked} numbers. Give them in a numeric column with `indexer labels`."
        )
    values = np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)
    infinite = int(np.isinf(values).sum())
    if infinite:
        raise ProbeError(
            f"column {name} is infinite in {infinite} rows: {asked} finite numbers. Correct them, or leave such rows "
            f"out with --where."
        )
    return values


def ranks_targets(val: Truth, groups: Int64) -> bool:
    """Whether val rows can rank penalties: numbers of FEWEST_GROUPS groups that differ, or FEWEST_EVENTS events."""
    if val.events is not None:
        return int(val.events.sum()) >= FEWEST_EVENTS
    return val.numbers is not None and len(np.unique(groups)) >= FEWEST_GROUPS and bool(np.ptp(val.numbers) > 0)
