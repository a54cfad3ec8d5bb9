"""The result of fitting a probe: the model, and logits of rows that it was not fitted on."""

from __future__ import annotations

from dataclasses import dataclass

from indexer.types import Float64, Int64
from probes.cohort.scaling import Scaler
from probes.fitting.models import Model
from probes.fitting.sweep import Selection


@dataclass(frozen=True)
class NeighbourResult:
    """Test metrics at one k."""

    k: int
    auc_macro: float
    balanced_accuracy: float
    val_auc_macro: float


@dataclass(frozen=True)
class Trained:
    """A fitted probe, and out-of-sample logits by the same procedure."""

    model: Model
    scaler: Scaler
    selection: Selection
    converged: bool
    held_rows: Int64  # fitted rows, for temperature and thresholds (D8, D11)
    held_logits: Float64  # each by a fit without the row's group
    test_logits: Float64  # of Experiment.split.test, by the final model
    neighbours: tuple[NeighbourResult, ...] = ()
    control_aucs: tuple[float, ...] = ()  # macro, of the same probe fitted on shuffled labels
