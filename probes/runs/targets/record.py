"""What a result holds of a target that is no class, beside the metrics."""

from __future__ import annotations

from dataclasses import dataclass

from probes.evaluation.bootstrap import Interval
from probes.fitting.targets.numbers import SizePoint


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


@dataclass(frozen=True)
class NumbersResult:
    """D36: what is drawn of predicted numbers, the errors by the size of train, and subgroups."""

    points: tuple[tuple[float, float], ...]  # predicted and true number of test rows, at most MOST_POINTS of them
    sizes: tuple[SizePoint, ...] = ()  # ascending; the last is all of train
    size_rule: str = ""
    subgroups: tuple[NumberSubgroup, ...] = ()
