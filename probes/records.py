"""What a probe is asked for and what it answers: plain records that serialise to JSON."""

from __future__ import annotations

from dataclasses import dataclass, field

from probes.audit import TAU, Audit
from probes.calibration import Calibration
from probes.intervals import REPLICATES, Interval
from probes.operating import OperatingPoint
from probes.sweep import Selection

FORMAT = 1  # of a result's JSON


@dataclass(frozen=True)
class Request:
    """Everything that decides a result, beside the table itself."""

    db: str
    probe: str  # linear | svm | svm-rbf | mlp | prototype | knn | zero-shot
    labels: tuple[str, ...]  # one column, or several with `multilabel`
    table: str | None = None
    version: int | None = None  # of the table; None: the newest
    multilabel: bool = False
    ordinal: bool = False
    group: str = "none"
    split: str = "hash"  # hash | stratified | nested | the name of a column
    salt: str = ""
    where: str | None = None
    scaling: str = "l2"
    class_weight: str | None = None
    penalty: float | None = None  # C or alpha; None: chosen by D5
    search: str = "decades"  # of C: decades (D5) | halving (preset clip)
    k: int | None = None  # neighbours; None: chosen on val
    temperature: float = 0.07  # of the neighbours' votes
    vote: str = "softmax"  # softmax | uniform
    metric: str = "cosine"  # cosine | euclidean
    task: str | None = None  # of the stored text vectors, for zero-shot
    subgroups: tuple[str, ...] = ()
    tau: float = TAU
    specificity: float = 0.9
    prevalence: float | None = None
    pooling: str = "mean"  # of a patient's rows: mean | max
    replicates: int = REPLICATES
    seed: int = 0
    shuffle_control: bool = False
    few_shot: bool = False
    preset: str | None = None


@dataclass(frozen=True)
class Source:
    """Where the vectors came from."""

    db: str
    table: str
    version: int
    encoder: str
    weights: str
    fingerprint: str
    licence: str
    random_weights: bool
    dim: int


@dataclass(frozen=True)
class Flow:
    """Rows from the archive to the split (D17)."""

    embedded: int  # rows of the table at that version
    failed: int  # inputs that never became rows
    matched: int  # by --where
    unlabelled: int  # null labels, left out
    ungrouped: int  # rows without a group; 0 unless the level is "image"
    labelled: int
    unassigned: int  # rows whose split column is empty
    duplicates: int  # fitted rows left out because their image bytes stand in a later split
    groups: int


@dataclass(frozen=True)
class PartFacts:
    """One part of the split."""

    rows: int
    groups: int
    classes: dict[str, int]  # positives of each column


@dataclass(frozen=True)
class SplitFacts:
    """How rows were split; the first thing that a result says."""

    statement: str  # the level in words
    kind: str
    level: str  # group | image
    parts: dict[str, PartFacts]
    absent: dict[str, tuple[str, ...]]  # part → classes that it lacks: their metrics are NaN
    sha256: str


@dataclass(frozen=True)
class ClassResult:
    """One class against the rest, or one label."""

    name: str
    positives: int
    rows: int
    prevalence: float
    auc: Interval
    ap: Interval
    delong: tuple[float, float] | None = None  # 95 % interval, where each group has one row


@dataclass(frozen=True)
class Curves:
    """What the report draws for one column; at most 200 points a curve."""

    name: str
    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    recall: tuple[float, ...]
    precision: tuple[float, ...]


@dataclass(frozen=True)
class Scored:
    """Metrics of one scored set of rows."""

    rows: int
    groups: int
    metrics: dict[str, Interval]
    classes: tuple[ClassResult, ...]
    excluded: tuple[str, ...]  # columns whose metrics are NaN, and that no macro counts
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SubgroupResult:
    """One value of a subgroup column (D13). `note` says why there is no number."""

    column: str
    value: str
    rows: int
    positives: int
    negatives: int
    auc: Interval | None
    sensitivity: Interval | None
    specificity: Interval | None
    note: str = ""


@dataclass(frozen=True)
class SubgroupGap:
    """Highest minus lowest over the values that have numbers."""

    column: str
    metric: str
    gap: float
    worst: str


@dataclass(frozen=True)
class FewShotPoint:
    """One size of the label-efficiency curve."""

    patients_per_class: int  # of the last point: all of the largest class
    auc_mean: float
    auc_sd: float
    draws: int
    penalties: tuple[float, ...]


@dataclass(frozen=True)
class FewShot:
    """D12. `area` is the mean AUC over log₂ of the patients a class."""

    points: tuple[FewShotPoint, ...]  # ascending; the last is all of train
    area: float
    penalty_rule: str


@dataclass(frozen=True)
class NeighbourResult:
    """Test metrics at one k, all from one search."""

    k: int
    auc_macro: float
    balanced_accuracy: float
    val_auc_macro: float


@dataclass(frozen=True)
class FoldResult:
    """One outer fold of a nested cross-validation."""

    fold: int
    rows: int
    penalty: float
    at_edge: bool
    converged: bool
    metrics: dict[str, float]


@dataclass(frozen=True)
class ProbeResult:
    """One probe, whole. Test numbers come from rows that chose nothing."""

    format: int
    request: Request
    source: Source
    flow: Flow
    split: SplitFacts
    audit: Audit | None
    selection: Selection
    converged: bool
    baselines: dict[str, dict[str, float]]
    test: Scored
    without_duplicates: Scored | None = None  # rows at or above tau removed
    patients: Scored | None = None
    confusion: tuple[tuple[int, ...], ...] = ()
    curves: tuple[Curves, ...] = ()
    calibration: dict[str, Calibration] = field(default_factory=dict)  # before, after
    temperature: float = 1.0  # fitted on held-out rows (D8); applied, but for zero-shot (D14)
    operating: tuple[OperatingPoint, ...] = ()
    subgroups: tuple[SubgroupResult, ...] = ()
    gaps: tuple[SubgroupGap, ...] = ()
    neighbours: tuple[NeighbourResult, ...] = ()
    folds: tuple[FoldResult, ...] = ()
    few_shot: FewShot | None = None
    shuffled_auc: Interval | None = None  # mean and 95 % range over SHUFFLES fits on shuffled labels
    warnings: tuple[str, ...] = ()
    packages: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
