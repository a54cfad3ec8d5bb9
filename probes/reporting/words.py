"""The names of metrics and terms, and numbers in words, shared by text and pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from probes.evaluation.bootstrap import Interval
from probes.evaluation.calibration import Calibration
from probes.evaluation.certainty.trust import FEWEST_SIMULATED
from probes.evaluation.scoring import Scored
from probes.runs.result import ProbeResult

NAMES = {  # key → name; each key has its definition in protocols.md, D18
    "auc": "AUC",
    "auc_macro": "AUC, macro",
    "auc_weighted": "AUC, weighted",
    "ap": "average precision",
    "ap_macro": "average precision, macro",
    "balanced_accuracy": "balanced accuracy",
    "f1_macro": "F1, macro",
    "accuracy": "accuracy",
    "kappa_quadratic": "kappa, quadratic",
    "brier": "Brier score (0 to 2)",
    "brier_labels": "Brier score, mean of labels (0 to 1)",
    "brier_pooled": "Brier score, labels pooled (0 to 1)",
    "log_loss": "log-loss",
    "log_loss_labels": "log-loss, mean of labels",
    "log_loss_pooled": "log-loss, labels pooled",
    "ece_debiased": "calibration error (ECE, debiased)",
    "ece": "calibration error (ECE)",
    "ece_adaptive": "ECE, adaptive",
    "ece_classwise": "ECE, class-wise",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "lr_positive": "LR+",
    "lr_negative": "LR-",
    "ppv_at_prevalence": "PPV at a prevalence",
    "threshold": "threshold",
    "interval": "95 % interval",
    "delong": "DeLong interval",
    "prevalence": "prevalence",
    "majority": "majority",
    "stratified_random": "stratified random",
    "near_duplicates": "near-duplicates",
    "by_group": "one score a group",
    "shuffled": "shuffled labels",
    "temperature": "temperature",
    "gap": "gap",
    "inner_auc": "inner AUC",
    "few_shot": "label efficiency",
    "p": "p",
    "p_holm": "p, Holm",
    "p_delong": "p, DeLong",
    "drop": "drop",
    "calibration_intercept": "calibration in the large",
    "calibration_slope": "calibration slope",
    "shift_classifier": "classifier two-sample test",
    "mmd": "maximum mean discrepancy",
    "net_benefit": "net benefit",
    "number_to_read": "number needed to read",
    "expected_cost": "cost a row",
    "conformal_set": "conformal set",
    "set_coverage": "coverage of the sets",
    "risk": "error rate of the kept rows",
    "aurc": "area under risk and coverage",
    "simulated_coverage": "held in simulations",
    "readable": "read off the vectors",
    "alone": "the column alone",
    "within_strata": "within its values",
    "balanced_auc": "balanced",
    "fall": "all rows minus within",
    "robustness_index": "robustness index",
    "doubtful": "doubtful row",
    "suspect": "suspect label",
    "prototype": "prototype",
    "outlier": "outlier",
    "spread": "mean ± SD of splits",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R²",
    "spearman": "Spearman's rank correlation",
    "bias": "bias, predicted minus true",
    "limit_low": "lower limit of agreement",
    "limit_high": "upper limit of agreement",
    "number_slope": "slope of true on predicted",
    "mean": "mean",
    "median": "median",
    "inner_error": "inner error",
    "number_sizes": "error by size",
    "conformal_range": "conformal range",
    "range_coverage": "coverage of the ranges",
    "range_width": "mean width",
    "predicted_error": "predicted error",
    "kept_error": "mean absolute error of the kept rows",
    "error_area": "area under error and coverage",
    "explained_alone": "the column alone, R²",
    "risk_alone": "the column alone, Uno's C",
    "within_order": "within its values",
    "order_fall": "all rows minus within",
    "predicted_events": "predicted share with the event",
    "observed_events": "observed share with the event",
    "horizon_difference": "observed minus predicted",
    "log_rank": "log-rank test",
    "proportionality": "proportional hazards",
    "risk_sizes": "C by size",
    "suspect_number": "far-out error",
    "doubtful_number": "doubtful row",
    "uno": "Uno's C",
    "harrell": "Harrell's C",
    "inner_deviance": "inner partial deviance",
    "risk_third": "third of the risk",
    "horizon": "horizon",
    "survival_at": "survival at the horizon",
}
UNDEFINED = "not defined"
OF_LABEL = ("mae", "rmse", "bias", "limit_low", "limit_high")  # metrics in the unit of the label
DIGITS = 4  # of them
SITE_METRICS = {"numeric": ("mae", "r2", "bias"), "survival": ("uno", "harrell")}  # shown of each site or fold
VALUE = "value (95 % interval)"
SMALLEST_P = 1e-4  # smaller p values are given as "< 0.0001"
EMPTY = {  # rate → what its denominator lacks where it is undefined
    "sensitivity": "no positive rows",
    "specificity": "no negative rows",
    "ppv": "no row called positive",
    "npv": "no row called negative",
    "lr_positive": "no false positives",
    "lr_negative": "no true negatives",
}


def number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` decimals, or "not defined"."""
    return UNDEFINED if value is None or math.isnan(value) else f"{value:z.{digits}f}"  # z: avoids "-0.000"


def quantity(value: float) -> str:
    """A number in the unit of the label with DIGITS digits, or "not defined": it may be of any size."""
    if math.isnan(value):
        return UNDEFINED
    size = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:z.{min(max(DIGITS - 1 - size, 0), 12)}f}"


def shown_as(name: str) -> Callable[[float], str]:
    """How a metric's numbers are written."""
    return quantity if name in OF_LABEL else number


def headline(result: ProbeResult) -> str:
    """The key of the metric that a probe is first judged by."""
    return {"classes": "auc_macro", "numeric": "mae", "survival": "uno"}[result.request.target]


def inner_key(result: ProbeResult) -> str:
    """The key of the criterion by which the penalty or k was chosen."""
    return {"classes": "inner_auc", "numeric": "inner_error", "survival": "inner_deviance"}[result.request.target]


def p_value(value: float) -> str:
    """A p value with four decimals; no p is 0."""
    return f"< {SMALLEST_P:.4f}" if value < SMALLEST_P else number(value, 4)


def with_interval(value: Interval | None, show: Callable[[float], str] = number) -> str:
    if value is None:
        return "-"
    if math.isnan(value.low):
        return show(value.value) + ("" if math.isnan(value.value) else "  (no interval)")
    doubt = "" if value.reliable else ", unreliable"
    return f"{show(value.value)}  ({show(value.low)} to {show(value.high)}{doubt})"


def held(value: Interval | None, groups: int) -> str:
    """How often such an interval held the truth in simulations of similar data (D29)."""
    if value is None or math.isnan(value.low):
        return ""
    if value.held is None:
        return "–" if groups >= FEWEST_SIMULATED else "n too small"
    return f"{value.held:.0f} %"


def plus_minus(value: Interval | None, show: Callable[[float], str] = number) -> str:
    """Mean ± SD, from an interval whose low is the mean minus the SD (nested folds)."""
    if value is None:
        return "-"
    return show(value.value) + ("" if math.isnan(value.low) else f" ± {show(value.value - value.low)}")


def rate(name: str, rates: Mapping[str, Interval], show: Callable[[Interval], str]) -> str:
    """A rate of an operating point; an undefined one with its reason."""
    if not math.isnan(rates[name].value):
        return show(rates[name])
    if all(math.isnan(known.value) for known in rates.values()):
        return f"{UNDEFINED} (too few rows to set or to judge a threshold)"
    side = "sensitivity" if math.isnan(rates["sensitivity"].value) else "specificity"
    lacking = side if name.startswith("lr_") and math.isnan(rates[side].value) else name
    return f"{UNDEFINED} ({EMPTY[lacking]})"


def metric_key(name: str, result: ProbeResult) -> str:
    """The key of a metric's name and definition: labels have a Brier score and log-loss of their own."""
    return f"{name}_labels" if result.request.multilabel and name in ("brier", "log_loss") else name


def metric_name(name: str, result: ProbeResult) -> str:
    """The display name of a metric. The Brier score of a label is in 0 to 1, that of several classes in 0 to 2."""
    return NAMES[metric_key(name, result)]


def calibration_numbers(found: Calibration, result: ProbeResult) -> dict[str, float]:
    """Key of its name → each calibration error; the losses of labels are pooled there."""
    pooled = "_pooled" if result.request.multilabel else ""
    return {
        "ece": found.ece,
        "ece_adaptive": found.ece_adaptive,
        "ece_classwise": found.ece_classwise,
        f"log_loss{pooled}": found.log_loss,
        f"brier{pooled}": found.brier,
    }


def note_words(scored: Scored) -> list[str]:
    """The notes on a set of metrics, with the metrics' names in place of their keys."""
    out = []
    for note in scored.notes:
        words, separator, keys = note.partition("undefined): ")  # the one note that lists keys
        named = ", ".join(NAMES.get(key, key) for key in keys.split(", "))
        out.append(f"{words}{separator}{named}" if separator else note)
    return out


def by_group_words(patients: Scored, result: ProbeResult) -> str:
    """How many groups have one score each, and of how many: those whose rows are of several classes are left out."""
    of = "" if patients.rows == result.test.groups else f" of {result.test.groups}"
    return f"by {result.request.group}, n = {patients.rows}{of}"
