"""What fitting a probe gives: its numbers, and logits of rows that had no part in them."""

from __future__ import annotations

from dataclasses import dataclass

from indexer.types import Float64, Int64
from probes.cohort.scaling import Scaler
from probes.fitting.models import Model
from probes.fitting.sweep import Selection


@dataclass(frozen=True)
class NeighbourResult:
    """Test metrics at one k, all from one search."""

    k: int
    auc_macro: float
    balanced_accuracy: float
    val_auc_macro: float


@dataclass(frozen=True)
class Trained:
    """A fitted probe, and logits by the same procedure of rows that had no part in the fit that scored them."""

    model: Model
    scaler: Scaler
    selection: Selection
    converged: bool
    held_rows: Int64  # fitted rows of the data, for temperature and thresholds (D8, D11)
    held_logits: Float64  # each by a fit that left the row's group out
    test_logits: Float64  # of Experiment.split.test, by the final model
    neighbours: tuple[NeighbourResult, ...] = ()
    control_aucs: tuple[float, ...] = ()  # macro, of the same probe fitted on labels shuffled again and again
