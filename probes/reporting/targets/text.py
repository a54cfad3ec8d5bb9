"""Targets that are no classes, as plain text."""

from __future__ import annotations

from probes.cohort.splits import units
from probes.reporting.tabular import table
from probes.reporting.words import number, quantity, with_interval
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


def survival_text(found: SurvivalResult, result: ProbeResult) -> list[str]:
    """How the risk was made, and the survival of its thirds."""
    time = result.request.labels[0]
    lines = [
        f"{found.components} principal components ({number(found.share)} of the vectors' variance); "
        f"{found.fitted_events} events fitted on, {found.test_events} in test",
    ]
    rows = [["risk", "rows", "groups", "events", f"survival at {time} {quantity(found.horizon)} (95 % interval)"]]
    rows += [[t.name, str(t.rows), str(t.groups), str(t.events), with_interval(t.survival)] for t in found.thirds]
    return lines + table(rows)
