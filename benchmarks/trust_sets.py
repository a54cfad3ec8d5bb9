"""The simulated data sets of `benchmarks.trust`: their true values, and every interval that a report gives of one.

A score is the class's shift, a part of the patient (its share of the variance is `of_patient`) and a part of the
image; probabilities are the true ones given the score; a patient has 1 … `images` of them. Beside the two classes there
are three grades, one, two and three shifts apart, whose probabilities are too extreme by OVERCONFIDENT, and a column of
three values that has nothing to do with either.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
from scipy.special import expit, log_softmax, logit, softmax
from scipy.stats import norm

from benchmarks.intervals import Design
from indexer.types import Float64, Int64
from probes.cohort.truth import class_truth
from probes.evaluation.bootstrap import Interval
from probes.evaluation.bootstrap import draw as resamples
from probes.evaluation.calibration import calibration
from probes.evaluation.confounding.strata import adjusted
from probes.evaluation.external.recalibration import recalibration
from probes.evaluation.interval_kinds import area_interval, proportion_interval
from probes.evaluation.metrics import Values, evaluator
from probes.evaluation.operating import denominators, rates_evaluator
from probes.evaluation.operating_points import ppv_interval, ratios
from probes.evaluation.scoring import Resampling, metric_intervals
from probes.evaluation.usefulness.decision_curve import decision_curve

SEED = 3
SPECIFICITY = 0.9  # of the threshold, which is fixed as one from other rows is
PREVALENCE = 0.05  # at which a PPV is asked for
AT = (0.1, 0.3)  # thresholds whose net benefit is measured
OVERCONFIDENT = 1.5  # factor of the grades' logits
MANY = 2_000_000  # rows that give the true values of the metrics without a formula
METRICS = ("auc_macro", "ap_macro", "accuracy", "balanced_accuracy", "f1_macro", "brier", "log_loss", "ece_debiased")
FALLS = (*METRICS[:-1], "sensitivity", "specificity")  # metrics whose drop to other patients is measured
GRADES = ("0", "1", "2")


def shift(design: Design) -> float:
    """Between the classes' mean scores, in standard deviations."""
    return math.sqrt(2) * float(norm.ppf(design.auc))


def scores(design: Design, seed: int) -> tuple[Float64, Int64, Int64]:
    """Scores, classes and patients of the rows of one data set."""
    rng = np.random.default_rng([SEED, seed])
    owner = np.repeat(np.arange(design.patients), rng.integers(1, design.images + 1, design.patients))
    ill = (rng.random(design.patients) < design.prevalence).astype(int)[owner]
    own = math.sqrt(design.of_patient) * rng.standard_normal(design.patients)[owner]
    return shift(design) * ill + own + math.sqrt(1 - design.of_patient) * rng.standard_normal(len(owner)), ill, owner


def probability(design: Design, score: Float64) -> Float64:
    """P(ill | score) of one row, as two columns."""
    away = shift(design)
    ill = expit(away * score - away**2 / 2 + logit(design.prevalence))
    return np.stack([1 - ill, ill], axis=1)


def graded(design: Design, score: Float64, ill: Int64, severe: Int64) -> tuple[Float64, Int64]:
    """Probabilities (n, 3), too extreme, and grades: of the ill those that are `severe` lie one shift further."""
    away, means = shift(design), np.arange(3)
    shares = np.array([1 - design.prevalence, design.prevalence / 2, design.prevalence / 2])
    moved = score + away * (ill & severe)
    own = log_softmax(np.log(shares) - (moved[:, None] - away * means) ** 2 / 2, axis=1)
    return np.asarray(softmax(OVERCONFIDENT * own, axis=1)), ill + (ill & severe)


@cache
def truths(prevalence: float, auc: float) -> dict[str, float]:
    """The true value of everything that `intervals` returns, by a formula or from MANY rows of one image each."""
    design = Design(MANY, 1, prevalence, auc, 0.0)
    rng = np.random.default_rng([SEED, 0, 0])
    ill = (rng.random(MANY) < prevalence).astype(int)
    score = shift(design) * ill + rng.standard_normal(MANY)
    point = evaluator(probability(design, score), class_truth(ill, ("no", "yes")), np.zeros(MANY, int)).point()
    found = {name: float(point[name]) for name in METRICS} | {"auc_macro": auc, "ap": float(point["ap"][1])}
    p, grade = graded(design, score, ill, rng.integers(0, 2, MANY))
    truth = class_truth(grade, GRADES, ordinal=True)
    kappa = evaluator(p, truth, np.zeros(MANY, int)).point()["kappa_quadratic"]
    found |= {"kappa_quadratic": float(kappa), "ece_debiased": 0.0, "ece_debiased grades": calibration(p, truth).ece}
    spec, sens = SPECIFICITY, float(norm.sf(norm.ppf(SPECIFICITY) - shift(design)))
    called, missed = prevalence * sens, prevalence * (1 - sens)
    found |= {"sensitivity": sens, "specificity": spec, "ppv": called / (called + (1 - prevalence) * (1 - spec)),
              "npv": 1 - missed / (missed + (1 - prevalence) * spec), "lr_positive": sens / (1 - spec),
              "lr_negative": (1 - sens) / spec}  # fmt: skip
    called = sens * PREVALENCE
    found["ppv_at_prevalence"] = called / (called + (1 - spec) * (1 - PREVALENCE))
    for t in AT:
        at = (logit(t) - logit(prevalence)) / shift(design) + shift(design) / 2  # the score of probability t
        alarms = (1 - prevalence) * float(norm.sf(at))
        found[f"net_benefit {t}"] = prevalence * float(norm.sf(at - shift(design))) - alarms * t / (1 - t)
    found |= {"calibration_intercept": 0.0, "calibration_slope": 1.0}
    found |= {"within_strata": auc, "balanced_auc": auc, "fall": 0.0}
    return found | {f"drop_{name}": 0.0 for name in FALLS}


def intervals(design: Design, seed: int, replicates: int) -> dict[str, Interval]:
    """Every interval of one data set; none with fewer than two patients on a side.

    A name's second word tells kinds of data apart that count as one metric.
    """
    score, ill, owner = scores(design, seed)
    if min(len(np.unique(owner[ill == side])) for side in (0, 1)) < 2:
        return {}
    how, groups = Resampling(replicates, seed), np.unique(owner, return_inverse=True)[1]
    p, truth = probability(design, score), class_truth(ill, ("no", "yes"))
    found = dict(_measured(p, truth, groups, how)) | dict(_rates(score, ill, groups, how))
    rng = np.random.default_rng([SEED, seed, 1])
    p3, grade = graded(design, score, ill, rng.integers(0, 2, design.patients)[owner])
    ordinal = dict(_measured(p3, class_truth(grade, GRADES, ordinal=True), groups, how))
    found |= {"kappa_quadratic": ordinal["kappa_quadratic"], "ece_debiased grades": ordinal["ece_debiased"]}
    curve = decision_curve("yes", ill == 1, p[:, 1], groups, how)
    for t in AT:
        i = int(np.argmin(np.abs(np.array(curve.thresholds) - t)))
        found[f"net_benefit {t}"] = Interval(curve.model[i], curve.low[i], curve.high[i])
    frozen = recalibration("yes", ill == 1, p[:, 1], groups)
    found |= {"calibration_intercept": frozen.intercept, "calibration_slope": frozen.slope}
    inside = adjusted(p, truth, groups, rng.integers(0, 3, design.patients)[owner], how)
    return found | {"within_strata": inside.within, "balanced_auc": inside.balanced, "fall": inside.fall}


def _measured(p: Float64, truth: object, groups: Int64, how: Resampling) -> Iterator[tuple[str, Interval]]:
    """D7's metrics, and the average precision of the second class."""
    measured = evaluator(p, truth, groups)
    drawn = _stacked([measured(w) for w in resamples(measured.groups, how.replicates, how.seed)])
    point = measured.point()
    yield from metric_intervals(measured, point, drawn).items()
    yield "ap", area_interval(float(point["ap"][1]), drawn["ap"][:, 1], int(measured.sides()[1]))


def _rates(score: Float64, ill: Int64, groups: Int64, how: Resampling) -> Iterator[tuple[str, Interval]]:
    """D11's rates; not all are defined: without a call there is no PPV."""
    called, n_groups = score >= norm.ppf(SPECIFICITY), int(groups.max()) + 1
    rates, counts = rates_evaluator(ill == 1, called, groups, n_groups), denominators(ill == 1, called, groups)
    drawn = _stacked([rates(w) for w in resamples(n_groups, how.replicates, how.seed)])
    own = {name: float(value[0]) for name, value in rates(np.ones((1, n_groups), np.int64)).items()}
    found = {name: proportion_interval(own[name], drawn[name], counts[name]) for name in counts}
    yield from (found | ratios(found) | {"ppv_at_prevalence": ppv_interval(found, PREVALENCE)}).items()


def _stacked(blocks: list[Values]) -> Values:
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
