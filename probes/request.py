"""The record of a probe's settings."""

from __future__ import annotations

from dataclasses import dataclass

TEMPERATURE = 0.07  # of the neighbours' votes (D6)


@dataclass(frozen=True)
class ProbeRequest:
    """All settings that determine a result, beside the table itself."""

    db: str
    probe: str  # linear | svm | svm-rbf | mlp | forest | prototype | knn | zero-shot
    labels: tuple[str, ...]  # one column, or several with `multilabel`
    table: str | None = None
    version: int | None = None  # of the table; None: the newest
    multilabel: bool = False
    ordinal: bool = False
    positive: str | None = None  # of two classes; None: chosen by their names
    group: str = "none"
    split: str = "hash"  # hash | stratified | nested | the name of a column
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
