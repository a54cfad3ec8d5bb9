"""Plots of numeric targets as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from probes.evaluation.bootstrap import Interval
from probes.fitting.targets.numbers import SizePoint
from probes.reporting.plots import ACCENT, COLOURS, GREY, MOST_LETTERS, plain, svg
from probes.runs.targets.record import RiskThird

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Sequence[tuple[float, float]]  # predicted and true number


def _named(label: str) -> str:
    return plain(label) if len(label) <= MOST_LETTERS else "label"


def agreement(points: Points, label: str) -> str:
    """True against predicted numbers, with the line of equality."""
    predicted, true = zip(*points, strict=True)
    low, high = min(*predicted, *true), max(*predicted, *true)

    def draw(axes: Axes) -> None:
        axes.plot([low, high], [low, high], color=GREY, lw=0.9, ls="--")
        axes.plot(predicted, true, "o", color=ACCENT, ms=3, alpha=0.5, mew=0)
        axes.set(xlabel=f"predicted {_named(label)}", ylabel=f"true {_named(label)}")

    return svg(draw, width=4.2, height=4.0, name="true against predicted numbers; dashed: equal")


def bland_altman(points: Points, label: str, lines: Sequence[Interval]) -> str:
    """Predicted minus true against their mean, with the bias and both limits (lines: limits, then the bias)."""
    x = [(p + t) / 2 for p, t in points]
    y = [p - t for p, t in points]

    def draw(axes: Axes) -> None:
        axes.axhline(0, color=GREY, lw=0.8, ls=":")
        for line, style in zip(lines, ("--", "--", "-"), strict=True):
            if line.low == line.low:
                axes.axhspan(line.low, line.high, color=ACCENT, alpha=0.12, lw=0)
            axes.axhline(line.value, color=ACCENT, lw=1.2, ls=style)
        axes.plot(x, y, "o", color=ACCENT, ms=3, alpha=0.5, mew=0)
        axes.set(xlabel=f"mean of both, {_named(label)}", ylabel="predicted - true")

    return svg(draw, width=4.2, height=4.0, name="Bland-Altman plot; bands: 95 % intervals")


def error_by_size(points: Sequence[SizePoint], counted: str) -> str:
    """The test error by the number of fitted groups; `counted` names them."""
    drawn, whole = points[:-1], points[-1]

    def draw(axes: Axes) -> None:
        x = [p.groups for p in drawn]
        low, high = ([p.mae_mean + sign * p.mae_sd for p in drawn] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=ACCENT, alpha=0.15, lw=0)
        axes.plot(x, [p.mae_mean for p in drawn], "o-", color=ACCENT, lw=1.5, ms=4)
        axes.axhline(whole.mae_mean, color=GREY, lw=0.9, ls="--")
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [str(n) for n in x])
        axes.set(xlabel=plain(counted) if len(counted) <= MOST_LETTERS else "groups", ylabel="test mean absolute error")

    return svg(draw, name="test error by size")


LINES = ("-", "--", ":")  # of the thirds, from the lowest risk


def kaplan_meier(thirds: Sequence[RiskThird], time: str, horizon: float) -> str:
    """The curve of each third, with the horizon."""

    def draw(axes: Axes) -> None:
        axes.axvline(horizon, color=GREY, lw=0.9, ls=":")
        for third, colour, line in zip(thirds, COLOURS, LINES, strict=False):
            x, y = (*third.times, third.last), (*third.survivals, third.survivals[-1])
            axes.step(x, y, where="post", color=colour, lw=1.5, ls=line)
        axes.set(xlabel=_named(time), ylabel="share without the event", ylim=(-0.01, 1.01))

    return svg(
        draw, width=5.2, height=4.0, name="Kaplan-Meier curves by third of the risk; dotted upright: the horizon"
    )
