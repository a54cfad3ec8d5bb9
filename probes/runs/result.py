"""The result of a probe: a plain record that serialises to JSON."""

from __future__ import annotations

from dataclasses import dataclass, field

from probes.cohort.experiment import SplitFacts
from probes.cohort.load import Flow, Source
from probes.cohort.positive import Positive
from probes.evaluation.bootstrap import Interval
from probes.evaluation.calibration import Calibration
from probes.evaluation.leakage import Audit
from probes.evaluation.operating import OperatingPoint
from probes.evaluation.scoring import Curves, Scored
from probes.evaluation.subgroups import SubgroupGap, SubgroupResult
from probes.fitting.few_shot import FewShot
from probes.fitting.sweep import Selection
from probes.fitting.trained import NeighbourResult
from probes.request import ProbeRequest
from probes.runs.review.record import Review
from probes.runs.targets.record import NumbersResult, SurvivalResult

FORMAT = 2  # of a result's JSON, a comparison's and a bundle's; 2 names the table's identity and the version's commit
FORMATS = (1, FORMAT)  # readable formats


@dataclass(frozen=True)
class FoldResult:
    """One outer fold of a nested cross-validation."""

    fold: int
    rows: int
    penalty: float
    at_edge: bool
    converged: bool
    metrics: dict[str, float]
    site: str = ""  # of a split that leaves one site out in turn
    groups: int = 0
    auc: Interval | None = None  # macro, of the site's own rows (D9)
    of_site: dict[str, Interval] = field(default_factory=dict)  # the same of numbers or times, by metric


@dataclass(frozen=True)
class ProbeResult:
    """The result of one probe. Test metrics are of rows that affected no choice."""

    format: int
    request: ProbeRequest
    source: Source
    flow: Flow
    split: SplitFacts
    audit: Audit | None
    selection: Selection
    converged: bool
    baselines: dict[str, dict[str, float]]
    test: Scored
    positive: Positive | None = None  # for two classes, with the reason
    without_duplicates: Scored | None = None  # metrics without test rows at or above tau
    patients: Scored | None = None
    confusion: tuple[tuple[int, ...], ...] = ()
    curves: tuple[Curves, ...] = ()
    calibration: dict[str, Calibration] = field(default_factory=dict)  # before, after
    temperature: float = 1.0  # fitted on held-out rows (D8); applied, except for zero-shot (D14)
    operating: tuple[OperatingPoint, ...] = ()
    subgroups: tuple[SubgroupResult, ...] = ()
    gaps: tuple[SubgroupGap, ...] = ()
    neighbours: tuple[NeighbourResult, ...] = ()
    folds: tuple[FoldResult, ...] = ()
    few_shot: FewShot | None = None
    review: Review | None = None  # D25 to D32, where asked for
    numbers: NumbersResult | None = None  # of a numeric target (D36), whose metrics are in `test`
    survival: SurvivalResult | None = None  # of times with events (D37), whose metrics are in `test`
    shuffled_auc: Interval | None = None  # mean and 95 % range over SHUFFLES fits on shuffled labels
    warnings: tuple[str, ...] = ()
    packages: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
