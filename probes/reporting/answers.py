"""What a result answers of the reporting checklists, by item."""

from __future__ import annotations

from probes.fitting.estimators import TREES
from probes.reporting.caveats import limits
from probes.reporting.review.sentences import confounder_sentence, external_sentence, spread_words
from probes.reporting.words import NAMES, SITE_METRICS, headline, number, plus_minus, rate, shown_as, with_interval
from probes.runs.result import ProbeResult

WHOLE = "weights.npz and probe.json beside the result"  # where the model is
NO_SUBGROUPS = "not in this result: name columns with --subgroup"
CONVEX_START = "convex fits start at zero or at a neighbouring penalty's solution"
STARTS = {  # by probe, where no convex fit is made
    "mlp": "an MLP from its seed", "forest": "trees from the run's seed", "knn": "nothing is fitted",
    "prototype": "class means", "zero-shot": "nothing is fitted", "ridge": "a solution in closed form",
    "survival": "Newton's method from zero",
}  # fmt: skip
ERRORS = {  # by target that is no class
    "survival": "predictions.parquet has each test row's key, risk, time and event",
    "numeric": "the report's Bland-Altman plot; predictions.parquet has each test row's key and both numbers",
}
SHOWN = 8  # classes and operating points named in an answer


def answers(result: ProbeResult) -> dict[str, str]:
    """Item → the answer that this result gives; "C19" is CLAIM's item 19, "T12a" is 12a of TRIPOD+AI."""
    source, flow, request = result.source, result.flow, result.request
    data = f"table {source.table}, version {source.version}: {flow.embedded} images embedded, {flow.failed} failed"
    missing = f"{flow.unlabelled} rows without a label left out; a row without a group is an error"
    split = f"{result.split.kind} split, seed {request.seed}; sha256 of the assignment {result.split.sha256[:16]}…"
    model = (
        f"frozen encoder {source.encoder} ({source.weights}, fingerprint {source.fingerprint}), "
        f"{request.probe} probe on {source.dim} features, scaling {request.scaling}"
    )
    flow_words = f"{data}; {flow.labelled} labelled rows of {flow.groups} groups"
    pixels = "as in the encoder's specification, part of its fingerprint"
    metrics = ", ".join(NAMES[name] for name in result.test.metrics)
    limitations = " ".join(limits(result))
    software = ", ".join(f"{name} {version}" for name, version in result.packages.items())
    parts = ", ".join(f"{name} {part.rows} rows of {part.groups} groups" for name, part in result.split.parts.items())
    choice, uncertainty, performance, whole, output = _of_kind(result)
    groups, sensitivity = _subgroups(result), _sensitivity(result)
    shares = ", ".join(f"{c.name} {number(c.prevalence)}" for c in result.test.classes[:SHOWN])
    balance = f"class weight {request.class_weight or 'none'}; prevalence in test: {shares}" if shares else "no classes"
    ensemble = f"{TREES} trees of a random forest" if request.probe == "forest" else "none"
    return _reviewed(result) | {
        "C7": data, "C9": pixels, "C10": request.own_where or "all rows of the table with a label", "C12": missing,
        "C19": split, "C20": result.split.statement, "C22": model, "C23": software,
        "C24": f"encoder: the named weights; {STARTS.get(request.probe, CONVEX_START)}",
        "C25": choice, "C26": choice, "C27": ensemble, "C28": metrics, "C29": uncertainty, "C30": sensitivity,
        "C32": f"{result.test.rows} held-out rows of {result.test.groups} groups that chose nothing: {performance}",
        "C35": f"{flow_words}; {missing}", "C36": groups, "C37": performance, "C38": _rates(result),
        "C39": _errors(result),
        "C40": limitations, "C42": "probes/protocols.md defines every number",
        "C43": f"{whole}; the settings to rerun it (`probes rerun`) are in the result",
        "T5a": data, "T7": pixels, "T9a": f"{source.dim} numbers an image of a frozen encoder, none selected",
        "T9b": f"{model}; {pixels}", "T11": missing, "T12a": f"{split}: {parts}", "T12b": f"scaling {request.scaling}",
        "T12c": f"{model}; {choice}", "T12d": groups, "T12e": f"{metrics}; {uncertainty}", "T12f": ensemble,
        "T12g": output, "T13": balance,
        "T14": groups, "T15": output, "T16": result.split.statement,
        "T18f": "the software and its versions: " + software, "T20a": flow_words, "T20b": groups, "T20c": parts,
        "T21": parts, "T22": whole, "T23a": performance, "T23b": groups, "T24": "none", "T26": limitations,
        "T27a": f"{flow.failed} images that could not be read are listed by `indexer failures`",
    }  # fmt: skip


def _reviewed(result: ProbeResult) -> dict[str, str]:
    """Items that only a result with an external test, images to look at or a sensitivity analysis answers."""
    out, review = {}, result.review
    if result.folds and result.folds[0].site:
        metric = headline(result)
        values = [(f.site, f.of_site.get(metric, f.auc)) for f in result.folds[:SHOWN]]
        each = ", ".join(f"{site} {with_interval(value, shown_as(metric))}" for site, value in values)
        named = "macro AUC" if metric == "auc_macro" else NAMES[metric]
        out["C33"] = f"each {result.request.left_out} left out in turn, {named}: {each}"
    if review is None:
        return out
    if review.external is not None:
        out["C33"] = external_sentence(review.external)
    if review.examples is not None:
        out["C31"] = (
            f"by example: {review.examples.errors} errors with their nearest fitted images, prototypes and outliers of "
            "each class, suspect labels (examples.csv)"
            if result.request.target == "classes"
            else "by example: the most wrong with their nearest fitted images, prototypes and outliers (examples.csv)"
        )
    return out


def _of_kind(result: ProbeResult) -> tuple[str, str, str, str, str]:
    """What differs with the kind of probe and split: choice, uncertainty, performance, the model's files, output."""
    selection = result.selection
    choice = f"{selection.parameter} = {selection.value:.4g}, {selection.inner}"
    if selection.parameter == "none":
        choice = selection.inner if result.folds else "nothing to choose"
    choice += "; no test row chose anything"
    if result.request.target != "classes":
        return choice, *_of_target(result)
    area = result.test.metrics["auc_macro"]
    if result.folds:
        uncertainty = f"mean ± SD of {len(result.folds)} outer folds; no interval"
        performance, whole = f"macro AUC {plus_minus(area)}", "mean of outer folds, no single model"
        return choice, uncertainty, performance, whole, "class probabilities after a temperature"
    uncertainty = f"95 % intervals from {result.request.replicates} bootstrap draws of whole groups"
    output = "class probabilities after a temperature; thresholds from held-out fitted rows"
    if result.request.probe == "zero-shot":
        output = "the checkpoint's own class probabilities; thresholds from held-out rows"
    return choice, uncertainty, f"macro AUC {with_interval(area)}; all metrics in the result", WHOLE, output


def _of_target(result: ProbeResult) -> tuple[str, str, str, str]:
    """The same of a number or a time: uncertainty, performance, the model's files, output."""
    folds, show = len(result.folds), plus_minus if result.folds else with_interval
    uncertainty = f"95 % intervals from {result.request.replicates} bootstrap draws of whole groups"
    if folds:
        uncertainty = f"mean ± SD of {folds} outer folds; no interval"
    named = SITE_METRICS[result.request.target][:2]
    shown = ", ".join(f"{NAMES[name]} {show(result.test.metrics[name], shown_as(name))}" for name in named)
    output = f"a number in the unit of {result.request.labels[0]}"
    if result.request.target == "survival":
        output = "a log hazard ratio, and the probability of survival up to a horizon"
    return uncertainty, shown, "mean of outer folds, no single model" if folds else WHOLE, output


def _errors(result: ProbeResult) -> str:
    """Where the wrong calls can be looked at: folds keep no scores of single rows, and labels no confusion matrix."""
    target = result.request.target
    if result.folds:
        called = ", and classes that are never called" if target == "classes" else ""
        return f"by fold: metrics{called}; scores of single rows are not kept"
    if target != "classes":
        return ERRORS[target]
    matrix = "the report's confusion matrix or errors; " if result.confusion else ""
    return matrix + "predictions.parquet has every test row's key, truth and probabilities"


def _sensitivity(result: ProbeResult) -> str:
    parts = [_audited(result)]
    if result.review is not None:
        parts += [f"{s.metric} over {len(s.values)} splits {spread_words(s)}" for s in result.review.repeats[:1]]
        parts += ["multiverse of choices in the report"] if result.review.multiverse else []
        found = result.review.confounders
        parts += [confounder_sentence(c) for c in found.columns] if found else []
    return "; ".join(parts)


def _audited(result: ProbeResult) -> str:
    if result.audit is None:
        return "no near-duplicate audit: nothing was fitted"
    return f"near-duplicate audit at cosine {result.audit.tau:g}: {result.audit.flagged} test rows flagged"


def _subgroups(result: ProbeResult) -> str:
    of_target = result.numbers or result.survival
    found = result.subgroups or (of_target.subgroups if of_target else ())
    if not found:
        return NO_SUBGROUPS
    columns = ", ".join(dict.fromkeys(s.column for s in found))
    gaps = "; largest gaps in the report" if result.subgroups else ""
    return f"{len(found)} subgroups reported, by {columns}{gaps}"


def _rates(result: ProbeResult) -> str:
    """Sensitivity and specificity of the operating points."""
    if not result.operating:
        return "no operating point"
    named = [
        f"{o.column}: "
        + ", ".join(f"{NAMES[r]} {rate(r, o.rates, with_interval)}" for r in ("sensitivity", "specificity"))
        for o in result.operating[:SHOWN]
    ]
    more = len(result.operating) - len(named)
    return "; ".join(named) + (f"; {more} more in the result" if more else "")
