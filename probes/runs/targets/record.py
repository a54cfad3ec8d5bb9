"""What a result holds of a target that is no class, beside the metrics."""

from __future__ import annotations

from dataclasses import dataclass

from probes.evaluation.bootstrap import Interval
from probes.fitting.targets.numbers import SizePoint
from probes.fitting.targets.sizes import RiskSize


@dataclass(frozen=True)
class NumberSubgroup:
    """One value of a subgroup column; no metrics where there are too few rows."""

    column: str
    value: str
    rows: int
    groups: int
    mae: Interval | None
    bias: Interval | None


@dataclass(frozen=True)
class RiskThird:
    """Test rows whose risk lies in one third of the fitted rows' held-out risks, and their Kaplan-Meier curve."""

    name: str  # low | middle | high
    rows: int
    groups: int
    events: int
    survival: Interval  # at the horizon
    times: tuple[float, ...]  # of the curve's steps, ascending
    survivals: tuple[float, ...]  # from each of them on
    last: float  # time of the last row
    observed: tuple[int, ...]  # rows still observed at the result's ticks


@dataclass(frozen=True)
class RiskSubgroup:
    """One value of a subgroup column; no metrics where there are too few events."""

    column: str
    value: str
    rows: int
    groups: int
    events: int
    uno: Interval | None
    harrell: Interval | None


@dataclass(frozen=True)
class HorizonCalibration:
    """Predicted and observed shares with the event up to a time."""

    time: float  # the last at which a tenth of the fitted rows, and of these, is observed
    rows: int
    expected: float  # mean predicted probability of the event
    observed: Interval  # 1 - Kaplan & Meier's estimate
    difference: Interval  # observed minus expected, from common draws: above 0 the probabilities are too low


@dataclass(frozen=True)
class SurvivalResult:
    """D37: what is drawn of risks, and how they were made."""

    horizon: float  # events up to it count in Uno's C
    components: int
    share: float  # of the vectors' variance that they hold
    fitted_events: int
    test_events: int
    bounds: tuple[float, float]  # of the thirds
    ticks: tuple[float, ...]
    thirds: tuple[RiskThird, ...]
    calibration: HorizonCalibration | None = None  # None in results of before this field
    proportional: Interval | None = None  # correlation of Schoenfeld's residuals with time
    log_rank: float = float("nan")  # p of equal hazards in the thirds; NaN where groups have several rows
    sizes: tuple[RiskSize, ...] = ()  # ascending; the last is all of train
    subgroups: tuple[RiskSubgroup, ...] = ()


@dataclass(frozen=True)
class NumbersResult:
    """D36: what is drawn of predicted numbers, the errors by the size of train, and subgroups."""

    points: tuple[tuple[float, float], ...]  # predicted and true number of test rows, at most MOST_POINTS of them
    sizes: tuple[SizePoint, ...] = ()  # ascending; the last is all of train
    size_rule: str = ""
    subgroups: tuple[NumberSubgroup, ...] = ()
