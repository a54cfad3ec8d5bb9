"""The parts of `benchmarks.review` that are of numbers and of survival, beside their scripts."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold

from indexer.types import Bool, Float32, Float64, Int64
from probes.cohort.scaling import ScaledRows, Vectors, fit_scaler
from probes.evaluation.scoring import Resampling
from probes.evaluation.targets.agreement import score_numbers
from probes.evaluation.targets.concordance import horizon_of, score_risks
from probes.fitting.targets.cox import fit_cox, risk_sets
from probes.fitting.targets.ridge import ALPHAS, inner_errors, ridge_on
from probes.fitting.targets.survival import COMPONENTS, components_of

SCRIPTS_ALPHAS = 15  # of the script, on the range of our 57
TESTED = 1000  # rows whose concordance is measured: the script compares all pairs


class Targets:
    """A number and a censored time for each row of unit vectors x (n, dim) of patients, both told by the vectors."""

    def __init__(self, x: Float32, groups: Int64) -> None:
        rng = np.random.default_rng(3)
        self.x, self.groups = x, groups
        signal = x[:, :8].sum(1) / x[:, :8].sum(1).std()
        own = 0.5 * rng.standard_normal(int(groups.max()) + 1)[groups]
        self.number: Float64 = signal + own + rng.standard_normal(len(x))
        self.predicted: Float64 = signal + 0.3 * rng.standard_normal(len(x))
        happens = rng.exponential(np.exp(-signal - own))
        leaves = rng.exponential(1.0, len(x))
        self.times: Float64 = np.minimum(happens, leaves)
        self.events: Bool = happens <= leaves
        self.folds = [(fit, held) for fit, held in GroupKFold(5).split(x, groups=groups)]

    def rows(self) -> ScaledRows:
        vectors, every = Vectors(self.x), np.arange(len(self.x))
        return ScaledRows(vectors, every, fit_scaler("none", vectors, every))


def ours_ridge(d: Targets) -> object:
    ridge = ridge_on(d.rows(), d.number)
    return ridge.fit(float(np.asarray(ALPHAS)[int(np.argmin(inner_errors(ridge, d.folds)))]))


def script_ridge(d: Targets) -> object:
    grid = {"alpha": np.logspace(-6, 8, SCRIPTS_ALPHAS)}
    return GridSearchCV(Ridge(), grid, cv=d.folds, scoring="neg_root_mean_squared_error").fit(d.x, d.number)


def ours_numbers(d: Targets, how: Resampling) -> object:
    return score_numbers(d.predicted, d.number, d.groups, how)


def script_numbers(d: Targets, draws: list[Int64]) -> object:
    kinds = (mean_absolute_error, r2_score, lambda y, p: spearmanr(y, p).statistic)
    return np.percentile([[k(d.number[r], d.predicted[r]) for k in kinds] for r in draws], [2.5, 97.5], axis=0)


def ours_cox(d: Targets) -> object:
    found = components_of(d.rows(), COMPONENTS)
    return fit_cox(found.of(d.rows().whole()), risk_sets(d.times, d.events), 1.0)


def script_cox(d: Targets) -> object:
    from statsmodels.duration.hazard_regression import PHReg

    inside = PCA(COMPONENTS).fit_transform(d.x)
    return PHReg(d.times, inside / inside[:, 0].std(), status=d.events.astype(int), ties="efron").fit()


def ours_concordance(d: Targets, how: Resampling) -> object:
    s = slice(TESTED)
    return score_risks(d.predicted[s], d.times[s], d.events[s], (d.groups[s], how), horizon_of(d.times[s]))


def script_concordance(d: Targets, draws: list[Int64]) -> object:
    """Harrell's C alone, of all pairs."""
    risk, times, events = d.predicted[:TESTED], d.times[:TESTED], d.events[:TESTED]

    def harrell(r: Int64) -> float:
        first = events[r][:, None] & (times[r][:, None] < times[r])
        right = (risk[r][:, None] > risk[r]) + 0.5 * (risk[r][:, None] == risk[r])
        return float((first * right).sum() / first.sum())

    return np.percentile([harrell(r[r < TESTED]) for r in draws], [2.5, 97.5])
