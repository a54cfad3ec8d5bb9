"""Plots of D27 and D28 as inline SVG: decision curves, and risk by coverage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probes.evaluation.certainty.selective import Selective
from probes.evaluation.usefulness.decision_curve import DecisionCurve
from probes.reporting.plots import ACCENT, GREY, INK, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADROOM, DEPTH = 1.05, 0.35  # of the net benefit's axis, relative to the top of the band


def decision(curve: DecisionCurve) -> str:
    """Net benefit of the probe with its band, of treat-all (dashed) and of treat-none (0)."""

    def draw(axes: Axes) -> None:
        axes.axhline(0, color=GREY, lw=0.9)
        axes.plot(curve.thresholds, curve.treat_all, color=INK, lw=1.1, ls="--")
        axes.fill_between(curve.thresholds, curve.low, curve.high, color=ACCENT, alpha=0.15, lw=0)
        axes.plot(curve.thresholds, curve.model, color=ACCENT, lw=1.6)
        top = max(curve.prevalence, *curve.high, 0.01)
        axes.set(xlabel="threshold probability", ylabel="net benefit", xlim=(0, 1), ylim=(-DEPTH * top, HEADROOM * top))

    return svg(draw, name="decision curve")


def risk_by_coverage(found: Selective, what: str = "error rate") -> str:
    """The kept rows' risk, an error rate or `what` else, with intervals at the table's shares; dashed: of all rows."""

    def draw(axes: Axes) -> None:
        axes.axhline(found.area_random, color=GREY, lw=0.9, ls="--")
        axes.plot(found.coverage, found.risk, color=ACCENT, lw=1.6)
        for kept in found.kept:
            axes.plot([kept.coverage] * 2, [kept.risk.low, kept.risk.high], color=ACCENT, lw=1)
            axes.plot(kept.coverage, kept.risk.value, "o", color=ACCENT, ms=4)
        axes.set(xlabel="share of the rows kept", ylabel=f"{what} of the kept", xlim=(0, 1.02))
        axes.set_ylim(bottom=0)

    return svg(draw, name=f"{what} by share of rows kept")
