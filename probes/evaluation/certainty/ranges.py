"""D38: conformal ranges of a number, calibrated and measured on different patients of the test rows.

Scores |true - predicted| (Lei 2018), or these divided by the error that the row's neighbours had (Papadopoulos
2011). As for sets of classes each patient has weight 1 in the quantile however many rows it has (Lee, Barber & Willett
2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from indexer.types import Bool, Float64, Int64
from probes.evaluation.bootstrap import Interval
from probes.evaluation.certainty.conformal import calibrating, fewest_groups, group_coverage, least_probability
from probes.evaluation.scoring import Resampling, compact


@dataclass(frozen=True)
class ConformalRanges:
    """Predicted number ∓ `factor`, times the row's own scale where `adaptive`; `refused` says why there are none."""

    wanted: float
    adaptive: bool
    refused: str = ""
    factor: float = float("nan")
    calibration_groups: int = 0
    rows: int = 0  # measured
    groups: int = 0
    coverage: Interval | None = None  # mean over groups of the share of their rows whose range holds the truth
    mean_width: float = float("nan")
    widths: tuple[float, float] = (float("nan"), float("nan"))  # 10th and 90th percentile


def conformal_ranges(
    errors: Float64, scale: Float64, groups: Int64, wanted: float, how: Resampling, *, adaptive: bool
) -> ConformalRanges:
    """Half of the test patients, drawn at random, calibrate; the others measure.

    `errors` (n,) true minus predicted, `scale` (n,) of each row's range, all 1 unless `adaptive`.
    """
    ids = compact(groups)
    calibrates = calibrating(np.zeros(len(ids), np.int64), ids, how.seed)[ids]
    count = len(np.unique(ids[calibrates]))
    if count < fewest_groups(wanted):
        return ConformalRanges(
            wanted, adaptive, f"{count} calibrating groups are too few for ranges of {wanted:.0%}, which need "
            f"{fewest_groups(wanted)}",
        )  # fmt: skip
    factor = -least_probability(-np.abs(errors[calibrates]) / scale[calibrates], ids[calibrates], wanted)
    made = ConformalRanges(wanted, adaptive, "", factor, count)
    return measure_ranges(made, errors[~calibrates], scale[~calibrates], ids[~calibrates], how)


def measure_ranges(
    made: ConformalRanges, errors: Float64, scale: Float64, groups: Int64, how: Resampling
) -> ConformalRanges:
    """The same factor on other rows, all of which measure; refused ranges stay refused."""
    if made.refused or not len(errors):
        return made
    width = 2 * made.factor * scale
    held: Bool = np.abs(errors) <= made.factor * scale
    low, high = np.percentile(width, [10, 90])
    return ConformalRanges(
        made.wanted, made.adaptive, "", made.factor, made.calibration_groups, len(errors), len(np.unique(groups)),
        group_coverage(held, groups, how), float(width.mean()), (float(low), float(high)),
    )  # fmt: skip


def usable(scale: Float64) -> Float64:
    """Scales without zeros, which neighbours without any error would give: at least a tenth of the median."""
    floor = max(float(np.median(scale)) / 10, math.ulp(1.0)) if len(scale) else 1.0
    return np.maximum(scale, floor)
