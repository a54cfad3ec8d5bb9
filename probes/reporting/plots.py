"""Plots of a result as inline SVG, drawn by matplotlib without a display."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from probes.evaluation.bootstrap import Difference, Interval
from probes.evaluation.operating import OperatingPoint
from probes.evaluation.scoring import ClassResult, Curves
from probes.fitting.few_shot import FewShot
from probes.fitting.sweep import Selection
from probes.runs.result import ProbeResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GREY, ACCENT = "#1d2730", "#8a959e", "#0b62a4"
COLOURS = ("#0b62a4", "#d1495b", "#2e8b57", "#b8860b", "#6a4c93", "#00868b", "#a0522d", "#708090")
MOST_CURVES = 8
MOST_SHARES = 12  # most classes of a confusion matrix with percentages in its cells
MOST_CELLS = 30  # most classes of a legible confusion matrix
ABOVE: dict[str, Any] = {
    "loc": "lower left",
    "bbox_to_anchor": (0, 1.01),
    "borderaxespad": 0,
    "alignment": "left",
}  # outside the data
RIGHT: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "alignment": "left"}
FEW_CURVES = 3  # most curves whose legend fits above a plot
STYLE = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.edgecolor": GREY,
    "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "none",
    "legend.frameon": False, "legend.fontsize": 8, "svg.hashsalt": "probes",
}  # fmt: skip


def svg(draw: Callable[[Axes], None], *, width: float = 4.2, height: float = 3.6, name: str) -> str:
    """The drawing as one <svg> element. `name` is its accessible name."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({**STYLE, "svg.hashsalt": name}):
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)


def roc(curves: Sequence[Curves], classes: Sequence[ClassResult], points: Sequence[OperatingPoint] = ()) -> str:
    area = {c.name: c.auc for c in classes}
    chosen = {p.column: p for p in points}

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=":")
        for colour, curve in zip(COLOURS, curves, strict=False):
            own = area[curve.name]
            axes.plot(curve.fpr, curve.tpr, color=colour, lw=1.5, label=f"{curve.name}: {_interval(own)}")
            if curve.name in chosen:
                rates = chosen[curve.name].rates
                axes.plot(1 - rates["specificity"].value, rates["sensitivity"].value, "o", color=colour, ms=5)
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.set_aspect("equal")
        axes.legend(title="AUC (95 % interval)", **_beside(curves))

    return svg(draw, name="ROC curves", **_room(curves))


def precision_recall(curves: Sequence[Curves], classes: Sequence[ClassResult]) -> str:
    facts = {c.name: c for c in classes}

    def draw(axes: Axes) -> None:
        for colour, curve in zip(COLOURS, curves, strict=False):
            own = facts[curve.name]
            axes.axhline(own.prevalence, color=colour, lw=0.9, ls=":")
            axes.step(curve.recall, curve.precision, where="post", color=colour, lw=1.5,
                      label=f"{curve.name}: {_interval(own.ap)}")  # fmt: skip
        axes.set(xlabel="sensitivity (recall)", ylabel="PPV (precision)", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.set_aspect("equal")
        axes.legend(title="average precision (95 % interval)", **_beside(curves))

    return svg(draw, name="precision-recall curves; dotted: prevalence", **_room(curves))


def _interval(value: Interval) -> str:
    if math.isnan(value.low):
        return f"{value.value:.3f}"
    return f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"


def _beside(curves: Sequence[Curves]) -> dict[str, Any]:
    """Position of the legend: above the plot, or to the right where it is long."""
    return ABOVE if len(curves) <= FEW_CURVES else RIGHT


def _room(curves: Sequence[Curves]) -> dict[str, float]:
    """Width and height in inches of a square plot and its legend."""
    if len(curves) > FEW_CURVES:
        return {"width": 6.4, "height": 3.6}
    return {"width": 4.2, "height": 4.0 + 0.17 * len(curves)}


def confusion_matrix(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    size = max(3.2, min(9.0, 1.6 + 0.55 * len(classes)))

    def draw(axes: Axes) -> None:
        shares = [[cell / max(sum(row), 1) for cell in row] for row in counts]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for i, row in enumerate(counts):
            for j, cell in enumerate(row):
                text = f"{cell}\n{shares[i][j]:.0%}" if cell and len(classes) <= MOST_SHARES else str(cell)
                axes.text(j, i, text, ha="center", va="center", color="white" if shares[i][j] > 0.55 else INK)
        names = [name if len(name) <= 18 else name[:17] + "…" for name in classes]
        long = max(map(len, names)) > 6
        axes.set_xticks(range(len(names)), names, rotation=35 if long else 0, ha="right" if long else "center")
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="called", ylabel="true")

    return svg(draw, width=size, height=size * 0.9, name="confusion matrix")


def reliability(result: ProbeResult) -> str:
    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=":")
        for name, colour, marker in (("before", GREY, "s"), ("after", ACCENT, "o")):
            found = result.calibration[name]
            sizes = [8 + 60 * b.rows / max(x.rows for x in found.bins) for b in found.bins]
            x, y = [b.confidence for b in found.bins], [b.observed for b in found.bins]
            axes.scatter(x, y, s=sizes, color=colour, marker=marker, alpha=0.8,
                         label=f"{name} temperature, ECE {found.ece:.3f}")  # fmt: skip
        observed = "share positive" if result.request.multilabel else "share right"
        axes.set(xlabel="probability given", ylabel=observed, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.set_aspect("equal")
        axes.legend(**ABOVE)

    return svg(draw, name="reliability diagram; larger marks: more rows")


def subgroups(result: ProbeResult) -> str:
    shown = [s for s in result.subgroups if s.auc is not None]

    def draw(axes: Axes) -> None:
        axes.axvline(result.test.metrics["auc_macro"].value, color=GREY, lw=0.9, ls="--")
        for i, s in enumerate(shown):
            if s.auc is not None:
                axes.plot([s.auc.low, s.auc.high], [i, i], color=ACCENT, lw=1.5)
                axes.plot(s.auc.value, i, "o", color=ACCENT, ms=5)
        axes.set_yticks(range(len(shown)), [f"{s.column} = {s.value} (n {s.rows})" for s in shown])
        axes.set(xlabel="AUC, 95 % interval", ylim=(len(shown) - 0.5, -0.5))

    return svg(draw, width=5.2, height=0.9 + 0.32 * max(len(shown), 1), name="AUC by subgroup")


def label_efficiency(curve: FewShot, named: str) -> str:
    """Test AUC by size; `named`: what is counted, e.g. patients."""
    points = curve.points[:-1]

    def draw(axes: Axes) -> None:
        x = [p.patients_per_class for p in points]
        mean = [p.auc_mean for p in points]
        axes.fill_between(x, [p.auc_mean - p.auc_sd for p in points], [p.auc_mean + p.auc_sd for p in points],
                          color=ACCENT, alpha=0.15, lw=0)  # fmt: skip
        axes.plot(x, mean, "o-", color=ACCENT, lw=1.5, ms=4)
        axes.axhline(curve.points[-1].auc_mean, color=GREY, lw=0.9, ls="--", label="all of train")
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [str(n) for n in x])
        axes.set(xlabel=f"{named} a class", ylabel="test AUC, mean ± SD of 5 draws")
        axes.legend(**ABOVE)

    return svg(draw, name="label efficiency")


def penalty_sweep(selection: Selection) -> str:
    tried = [c for c in selection.candidates if not math.isnan(c.auc)]

    def draw(axes: Axes) -> None:
        axes.plot([c.value for c in tried], [c.auc for c in tried], "o-", color=ACCENT, lw=1, ms=4)
        axes.axvline(selection.value, color=GREY, lw=0.9, ls="--", label=f"chosen: {selection.value:.3g}")
        axes.set_xscale("log")
        if selection.parameter == "k":
            axes.set_xticks([c.value for c in tried], [f"{c.value:g}" for c in tried])
            axes.minorticks_off()
        axes.set(xlabel=selection.parameter, ylabel=f"inner AUC ({selection.inner})")
        axes.legend(**ABOVE)

    return svg(draw, name=f"inner AUC by {selection.parameter}")


def differences(rows: Sequence[Difference], metric: str) -> str:
    """Paired differences with their intervals; right of 0 the first is better."""

    def draw(axes: Axes) -> None:
        for i, row in enumerate(rows):
            axes.plot([row.delta.low, row.delta.high], [i, i], color=ACCENT, lw=1.5)
            axes.plot(row.delta.value, i, "o", color=ACCENT, ms=5)
        axes.axvline(0, color=GREY, lw=0.9, ls=":")
        axes.set_yticks(range(len(rows)), [f"{r.first} - {r.second}" for r in rows])
        axes.set(xlabel=f"difference in {metric}, 95 % interval", ylim=(len(rows) - 0.5, -0.5))

    return svg(draw, width=6.0, height=1.0 + 0.35 * max(len(rows), 1), name="paired differences")
