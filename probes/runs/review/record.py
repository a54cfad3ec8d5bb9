"""What a result answers of the questions that reviewers ask next (D25 to D32): plain records."""

from __future__ import annotations

import math
from dataclasses import dataclass

from probes.cohort.load import Flow
from probes.evaluation.bootstrap import Interval
from probes.evaluation.calibration import Calibration
from probes.evaluation.certainty.conformal import ConformalSets
from probes.evaluation.certainty.ranges import ConformalRanges
from probes.evaluation.certainty.selective import Selective
from probes.evaluation.certainty.trust import Trust
from probes.evaluation.confounding.robustness import Robustness
from probes.evaluation.confounding.strata import Adjusted
from probes.evaluation.external.recalibration import Recalibration
from probes.evaluation.external.shift import Shift
from probes.evaluation.leakage import Audit
from probes.evaluation.operating import OperatingPoint
from probes.evaluation.scoring import Scored
from probes.evaluation.targets.within import Within
from probes.evaluation.usefulness.costs import Costs
from probes.evaluation.usefulness.decision_curve import DecisionCurve
from probes.runs.targets.record import HorizonCalibration


@dataclass(frozen=True)
class RateDrop:
    """The drop of one column's rates at the frozen threshold."""

    column: str
    rates: dict[str, Interval]


@dataclass(frozen=True)
class External:
    """D25, D26: the frozen probe on rows that no part of the split holds."""

    db: str
    table: str
    version: int
    where: str
    flow: Flow
    shared_rows: int  # rows left out since a row of the split has their group
    audit: Audit  # of the external rows against the fitted ones
    test: Scored
    drops: dict[str, Interval]  # metric → test rows minus external rows
    operating: tuple[OperatingPoint, ...] = ()
    rate_drops: tuple[RateDrop, ...] = ()
    calibration: Calibration | None = None  # of classes
    recalibration: tuple[Recalibration, ...] = ()
    recalibration_here: tuple[Recalibration, ...] = ()  # of the test rows, to compare with
    shift: Shift | None = None
    conformal: ConformalSets | None = None  # coverage there of the sets calibrated here
    label_sets: tuple[ConformalSets, ...] = ()  # the same for each label
    here: Scored | None = None  # of times: the test rows at the horizon at which the external ones are scored
    horizon: float = float("nan")
    at_horizon: HorizonCalibration | None = None  # of times
    ranges: tuple[ConformalRanges, ...] = ()  # of numbers: coverage there of the ranges calibrated here


@dataclass(frozen=True)
class Confounder:
    """D30: one column. `note`: why a number is missing."""

    column: str
    values: int
    missing: int  # test rows without a value
    readable: Interval | None  # test macro AUC of a linear probe for the column, on the vectors
    alone: Interval | None  # test macro AUC (R² of numbers, Uno's C) for the label of a probe on the column alone
    adjusted: Adjusted | None  # of classes
    robustness: Robustness | None  # of classes
    note: str = ""
    raises_p: float | None = None  # one-sided, by permutation: of a column that does not raise the AUC
    within: Within | None = None  # of numbers and times


@dataclass(frozen=True)
class Confounders:
    """All named columns, and all of them together."""

    columns: tuple[Confounder, ...]
    together: Interval | None  # of a probe on all the columns
    gain: Interval | None  # the vectors' probe minus that one, paired on the same draws
    gain_p: float = float("nan")
    metric: str = "auc_macro"  # of `together` and `gain`; r2 of numbers, uno of times


@dataclass(frozen=True)
class Neighbour:
    """A fitted image beside an example."""

    key: str
    label: str
    cosine: float


@dataclass(frozen=True)
class Example:
    """D31: one image, to be looked at by a person."""

    kind: str  # error | doubtful | suspect | prototype | outlier
    key: str
    group: str
    label: str
    called: str  # "" for prototypes and outliers
    p_label: float
    p_called: float
    score: float  # what the kind is ranked by
    part: str  # train, val or test
    neighbours: tuple[Neighbour, ...] = ()


@dataclass(frozen=True)
class Examples:
    """The examples of each kind, in the order of their rank, and how many there are in all.

    With labels a row counts once for each label whose value is known.
    """

    shown: tuple[Example, ...]
    errors: int  # of the test rows
    suspects: int  # of the test and held-out fitted rows
    scored: int  # rows among which suspects were sought


@dataclass(frozen=True)
class Spread:
    """D32: one metric over repeated splits: no confidence interval, since their rows overlap."""

    metric: str
    values: tuple[float, ...]
    mean: float
    sd: float


@dataclass(frozen=True)
class Choice:
    """D32: one combination of choices, and its headline metric."""

    scaling: str
    penalty: str  # how it was chosen
    seed: str  # of the split
    pooling: str
    auc_macro: float = float("nan")  # of classes
    value: float = float("nan")  # of numbers their mean absolute error, of times Uno's C

    @property
    def headline(self) -> float:
        return self.value if math.isnan(self.auc_macro) else self.auc_macro


@dataclass(frozen=True)
class Review:
    """All answers; None or empty where they were not asked for."""

    external: External | None = None
    confounders: Confounders | None = None
    decision: tuple[DecisionCurve, ...] = ()
    costs: tuple[Costs, ...] = ()
    conformal: ConformalSets | None = None  # of classes
    label_sets: tuple[ConformalSets, ...] = ()  # of each label
    ranges: tuple[ConformalRanges, ...] = ()  # of numbers
    selective: Selective | None = None
    trust: tuple[Trust, ...] = ()
    examples: Examples | None = None
    repeats: tuple[Spread, ...] = ()
    multiverse: tuple[Choice, ...] = ()
