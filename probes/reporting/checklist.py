"""Fills in the items of CLAIM (2020) and TRIPOD+AI (2024) that a result answers; the others are "not provided"."""

from __future__ import annotations

from dataclasses import dataclass

from probes.reporting.caveats import limits
from probes.reporting.text import plus_minus, with_interval
from probes.runs.result import ProbeResult

NOT_PROVIDED = "not provided"


@dataclass(frozen=True)
class Item:
    """One reporting item."""

    checklist: str  # CLAIM | TRIPOD+AI
    number: str
    topic: str
    answer: str


CLAIM = {
    "4": "study objectives and hypotheses", "5": "prospective or retrospective study", "7": "data sources",
    "8": "eligibility criteria", "9": "data pre-processing", "10": "selection of data subsets",
    "12": "de-identification methods", "13": "how missing data were handled",
    "14": "definition of the reference standard",
    "16": "source of the annotations and qualification of the annotators", "18": "inter- and intra-rater variability",
    "19": "intended sample size", "20": "how data were assigned to partitions",
    "21": "level at which partitions are disjoint", "22": "description of the model",
    "23": "software libraries and packages", "24": "initialisation of parameters", "25": "details of training",
    "26": "method of selecting the final model", "28": "metrics of model performance",
    "29": "measures of significance and uncertainty", "30": "robustness or sensitivity analysis",
    "32": "validation on external data", "33": "flow of participants", "34": "demographic and clinical characteristics",
    "35": "performance metrics", "36": "estimates of diagnostic accuracy and their precision", "37": "failure analysis",
    "38": "limitations", "41": "where the full protocol can be accessed", "42": "sources of funding",
}  # fmt: skip
TRIPOD = {
    "5a": "sources of data", "6a": "study setting", "6b": "eligibility criteria", "7": "data preparation",
    "8a": "outcome definition", "9a": "choice of predictors", "10": "sample size", "11": "missing data",
    "12a": "how data were used for development and evaluation", "12c": "type of model and internal validation",
    "12e": "performance measures", "12f": "model updating", "13": "class imbalance", "14": "fairness",
    "15": "model output", "16": "training versus evaluation", "17": "ethical approval", "18f": "code sharing",
    "20a": "flow of participants", "21": "numbers in each analysis", "22": "full model specification",
    "23a": "performance with intervals", "23b": "heterogeneity of performance", "26": "limitations",
    "27a": "handling of poor-quality input",
}  # fmt: skip


def items(result: ProbeResult) -> list[Item]:
    """The supported items of both lists, each with the result's answer."""
    answers = _answers(result)
    out = [Item("CLAIM", n, topic, answers.get(f"C{n}", NOT_PROVIDED)) for n, topic in CLAIM.items()]
    return out + [Item("TRIPOD+AI", n, topic, answers.get(f"T{n}", NOT_PROVIDED)) for n, topic in TRIPOD.items()]


def _answers(result: ProbeResult) -> dict[str, str]:
    source, flow, request = result.source, result.flow, result.request
    data = f"table {source.table}, version {source.version}: {flow.embedded} images embedded, {flow.failed} failed"
    missing = f"{flow.unlabelled} rows without a label left out; a row without a group is an error"
    split = f"{result.split.kind} split, seed {request.seed}; sha256 of the assignment {result.split.sha256[:16]}…"
    model = (
        f"frozen encoder {source.encoder} ({source.weights}, fingerprint {source.fingerprint}), "
        f"{request.probe} probe on {source.dim} features, scaling {request.scaling}"
    )
    selection = result.selection
    choice = f"{selection.parameter} = {selection.value:.4g}, {selection.inner}"
    if selection.parameter == "none":
        choice = selection.inner if result.folds else "nothing to choose"
    choice += "; no test row chose anything"
    uncertainty = f"95 % intervals from {request.replicates} bootstrap draws of whole groups"
    auc, show = result.test.metrics["auc_macro"], with_interval
    if result.folds:
        uncertainty, show = f"mean ± SD of {len(result.folds)} outer folds; no interval", plus_minus
    performance = f"macro AUC {show(auc)}; all metrics in the result"
    whole = "mean of outer folds, no single model" if result.folds else "weights.npz and probe.json beside the result"
    if result.folds:
        output = "class probabilities after a temperature"
    elif request.probe == "zero-shot":
        output = "the checkpoint's own class probabilities; thresholds from held-out rows"
    else:
        output = "class probabilities after a temperature; thresholds from held-out fitted rows"
    sensitivity = NOT_PROVIDED
    if result.audit:
        sensitivity = f"near-duplicate audit at cosine {result.audit.tau:g}: {result.audit.flagged} test rows flagged"
    shares = ", ".join(f"{c.name} {c.prevalence:.3f}" for c in result.test.classes[:8])
    groups = f"{len(result.subgroups)} subgroups reported" if result.subgroups else NOT_PROVIDED
    software = ", ".join(f"{name} {version}" for name, version in result.packages.items())
    parts = ", ".join(f"{name} {part.rows} rows of {part.groups} groups" for name, part in result.split.parts.items())
    return {
        "C7": data, "C9": "as in the encoder's specification, part of its fingerprint",
        "C10": request.where or "all rows",
        "C13": missing, "C20": split, "C21": result.split.statement, "C22": model, "C23": software,
        "C24": "convex fits start at zero or at a neighbouring penalty's solution; an MLP from its seed",
        "C25": choice, "C26": choice, "C28": ", ".join(result.test.metrics), "C29": uncertainty, "C30": sensitivity,
        "C33": data + f"; {flow.labelled} labelled", "C35": performance, "C36": performance,
        "C38": " ".join(limits(result)), "T26": " ".join(limits(result)),
        "T5a": data, "T7": "as in the encoder's specification",
        "T9a": f"{source.dim} numbers an image of a frozen encoder",
        "T11": missing, "T12a": split, "T12c": model, "T12e": ", ".join(result.test.metrics),
        "T13": f"class weight {request.class_weight or 'none'}; prevalence in test: {shares}", "T14": groups,
        "T15": output,
        "T16": result.split.statement, "T20a": data + f"; {flow.labelled} labelled",
        "T21": parts,
        "T22": whole, "T23a": performance, "T23b": groups,
        "T27a": f"{flow.failed} images that could not be read are listed by `indexer failures`",
    }  # fmt: skip
