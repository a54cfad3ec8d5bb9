"""Targets that are no classes, as plain text."""

from __future__ import annotations

from probes.cohort.splits import units
from probes.reporting.tabular import table
from probes.reporting.targets.sentences import horizon_sentence, log_rank_sentence, proportional_sentence
from probes.reporting.words import NAMES, SITE_METRICS, number, quantity, shown_as, with_interval
from probes.runs.result import ProbeResult
from probes.runs.targets.record import NumbersResult, SurvivalResult


def numbers_text(found: NumbersResult, result: ProbeResult) -> list[str]:
    """Subgroups, and the error by the size of train."""
    lines = []
    if found.subgroups:
        rows = [["subgroup", "rows", "groups", "mean absolute error", "bias"]]
        for s in found.subgroups:
            small = s.mae is None
            shown = ["n too small", ""] if small else [with_interval(v, quantity) for v in (s.mae, s.bias)]
            rows.append([f"{s.column} = {s.value}", str(s.rows), str(s.groups), *shown])
        lines += table(rows)
    if found.sizes:
        rows = [[f"{units(result.request.group)} in all", "test mean absolute error, mean ± SD", "draws"]]
        for p in found.sizes:
            size = str(p.groups) if p.draws > 1 else f"all ({p.groups})"
            spread = f" ± {quantity(p.mae_sd)}" if p.draws > 1 else ""
            rows.append([size, quantity(p.mae_mean) + spread, str(p.draws)])
        lines += ["", *table(rows)] if lines else table(rows)
        lines.append(f"  {found.size_rule}")
    return lines


def folds_text(result: ProbeResult) -> list[str]:
    """Each left-out site with intervals, or each outer fold."""
    shown = SITE_METRICS[result.request.target]
    if result.folds[0].site:
        rows = [[result.request.left_out or "site", "rows", "groups", *(f"{NAMES[m]} (95 % interval)" for m in shown)]]
        for f in result.folds:
            own = (with_interval(f.of_site.get(m), shown_as(m)) for m in shown)
            rows.append([f.site, str(f.rows), str(f.groups), *own])
        return table(rows)
    rows = [["outer fold", "rows", "penalty", *(NAMES[m] for m in shown)]]
    for f in result.folds:
        rows.append([str(f.fold), str(f.rows), f"{f.penalty:.4g}", *(shown_as(m)(f.metrics[m]) for m in shown)])
    return table(rows)


def survival_text(found: SurvivalResult, result: ProbeResult) -> list[str]:
    """How the risk was made, and the survival of its thirds."""
    time = result.request.labels[0]
    lines = [
        f"{found.components} principal components ({number(found.share)} of the vectors' variance); "
        f"{found.fitted_events} events fitted on, {found.test_events} in test",
    ]
    rows = [["risk", "rows", "groups", "events", f"survival at {time} {quantity(found.horizon)} (95 % interval)"]]
    rows += [[t.name, str(t.rows), str(t.groups), str(t.events), with_interval(t.survival)] for t in found.thirds]
    said = [log_rank_sentence(found.log_rank)]
    said += [proportional_sentence(found.proportional)] if found.proportional else []
    said += [horizon_sentence(found.calibration, time)] if found.calibration else []
    return [*lines, *table(rows), *said, *_risk_subgroups(found), *_risk_sizes(found, result)]


def _risk_subgroups(found: SurvivalResult) -> list[str]:
    if not found.subgroups:
        return []
    rows = [["subgroup", "rows", "groups", "events", NAMES["uno"], NAMES["harrell"]]]
    for s in found.subgroups:
        shown = ["n too small", ""] if s.uno is None else [with_interval(s.uno), with_interval(s.harrell)]
        rows.append([f"{s.column} = {s.value}", str(s.rows), str(s.groups), str(s.events), *shown])
    return ["", *table(rows)]


def _risk_sizes(found: SurvivalResult, result: ProbeResult) -> list[str]:
    if not found.sizes:
        return []
    rows = [[f"{units(result.request.group)} in all", "mean events", f"test {NAMES['uno']}, mean ± SD", "draws"]]
    whole = found.sizes[-1].groups
    for p in found.sizes:
        spread = "" if p.uno_sd != p.uno_sd else f" ± {number(p.uno_sd)}"
        size = f"all ({p.groups})" if p.groups == whole else str(p.groups)
        rows.append([size, f"{p.events:.1f}", number(p.uno_mean) + spread, str(p.draws)])
    return ["", *table(rows)]
