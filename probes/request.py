"""The record of a probe's settings."""

from __future__ import annotations

from dataclasses import dataclass

OWN_SPLITS = ("hash", "stratified", "nested")
LEAVE_OUT = "leave-out:"  # of a split, before the column of sites
TEMPERATURE = 0.07  # of the neighbours' votes (D6)
IMAGE = "image"  # the level at which nothing is pooled


@dataclass(frozen=True)
class ProbeRequest:
    """All settings that determine a result, beside the table itself."""

    db: str
    probe: str  # linear | cumulative | svm | svm-rbf | mlp | forest | prototype | knn | zero-shot | ridge | survival
    labels: tuple[str, ...]  # one column, several with `multilabel`, or the time and the event of survival
    table: str | None = None
    version: int | None = None  # of the table; None: the newest
    multilabel: bool = False
    ordinal: bool = False
    numeric: bool = False  # the label is a number (D36)
    positive: str | None = None  # of two classes; None: chosen by their names
    group: str = "none"
    level: str = IMAGE  # what a case is: an image, or all images with one value of this column (D19)
    pool: str = "mean"  # how the vectors of a case are pooled before the fit: mean | max | mean+max | topK
    split: str = "hash"  # hash | stratified | nested | leave-out:COLUMN | the name of a column
    salt: str = ""
    where: str | None = None
    scaling: str = "l2"
    class_weight: str | None = None
    penalty: float | None = None  # C, alpha or leaf; None: chosen by D5
    search: str = "decades"  # of C: decades (D5) | halving (preset clip)
    k: int | None = None  # neighbours; None: chosen on val
    temperature: float = TEMPERATURE  # of the neighbours' votes
    vote: str = "softmax"  # softmax | uniform
    metric: str = "cosine"  # cosine | euclidean
    task: str | None = None  # of the stored text vectors, for zero-shot
    subgroups: tuple[str, ...] = ()
    tau: float = 0.99
    specificity: float = 0.9
    prevalence: float | None = None
    pooling: str = "mean"  # of a patient's rows: mean | max
    replicates: int = 2000
    seed: int = 0
    shuffle_control: bool = False
    few_shot: bool = False
    preset: str | None = None
    review: bool = False  # usefulness, certainty and examples (D27 to D31)
    coverage: float = 0.9  # wanted of conformal sets
    costs: tuple[float, ...] = ()  # false alarms that a missed positive is worth; (): those of D27
    confounders: tuple[str, ...] = ()
    test_db: str | None = None  # external rows (D25): another database
    test_table: str | None = None
    test_where: str | None = None  # without the two above: rows of this table, which are then not fitted on
    distinct_groups: bool = False  # equal group names in both are different patients
    repeats: int = 0  # further splits (D32)
    multiverse: bool = False

    @property
    def own_where(self) -> str | None:
        """The filter of the rows that are split: `where` without the rows that are kept for the external test."""
        if self.test_where is None or self.external_elsewhere:
            return self.where
        kept = f"({self.test_where}) IS NOT TRUE"  # a row for which it is unknown is not of the external test
        return kept if self.where is None else f"({self.where}) AND {kept}"

    @property
    def external_elsewhere(self) -> bool:
        return self.test_db is not None or self.test_table is not None

    @property
    def external(self) -> bool:
        return self.external_elsewhere or self.test_where is not None

    @property
    def split_column(self) -> str | None:
        """The column that the split reads."""
        return None if self.split in OWN_SPLITS else self.left_out or self.split

    @property
    def split_is_folds(self) -> bool:
        """Whether the split has several test sets: nested, or each site left out in turn."""
        return self.split == "nested" or self.left_out is not None

    @property
    def left_out(self) -> str | None:
        """The column of `leave-out:COLUMN`, each of whose values is the test set in turn."""
        return self.split.removeprefix(LEAVE_OUT) if self.split.startswith(LEAVE_OUT) else None

    @property
    def target(self) -> str:
        """What is predicted: "classes", "numeric" or "survival"."""
        return "survival" if self.probe == "survival" else "numeric" if self.numeric else "classes"

    @property
    def reviewed(self) -> bool:
        """Whether anything of D25 to D32 was asked for."""
        return bool(self.review or self.confounders or self.external or self.repeats or self.multiverse)
