"""Plots of a result as inline SVG, drawn by matplotlib without a display."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING

from probes.evaluation.operating import OperatingPoint
from probes.evaluation.scoring import ClassResult, Curves
from probes.fitting.few_shot import FewShot
from probes.fitting.sweep import Selection
from probes.runs.result import ProbeResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GREY, ACCENT = "#1a2129", "#6b7782", "#0b5a99"
COLOURS = (ACCENT, "#c0374b", "#24754a", "#8c6400", "#6a4c93", "#00727a", "#9a4d22", "#5b6975")
VARIABLES = {  # in the page each becomes a variable of the style sheet, which has two colour schemes
    INK: "--ink",
    GREY: "--edge",
    **{colour: f"--series-{i}" for i, colour in enumerate(COLOURS, 1)},
}
MOST_LETTERS = 45  # of an axis label
MOST_CURVES = len(COLOURS)
STYLE = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.edgecolor": GREY,
    "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "none", "axes.facecolor": "none",
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
    return _for_a_page(buffer.getvalue(), name)


def _for_a_page(text: str, name: str) -> str:
    """The <svg> element without rules for every element of the page, and without ids to which nothing refers."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)  # the page's own
    referenced = set(re.findall(r"(?:href=\"|url\()#([^\")]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in referenced else "", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(name)}" ', 1)


def roc(curves: Sequence[Curves], points: Sequence[OperatingPoint] = ()) -> str:
    """ROC curves in the order of the legend, with a dot at each operating point."""
    chosen = {p.column: p for p in points}

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=":")
        for i, curve in enumerate(curves):
            colour, line = _line(i)
            axes.plot(curve.fpr, curve.tpr, color=colour, lw=1.5, ls=line)
            if curve.name in chosen:
                rates = chosen[curve.name].rates
                at = 1 - rates["specificity"].value, rates["sensitivity"].value
                axes.plot(*at, "o", color=colour, ms=5, clip_on=False)
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.set_aspect("equal")

    return svg(draw, width=4.2, height=4.0, name="ROC curves")


def precision_recall(curves: Sequence[Curves], classes: Sequence[ClassResult]) -> str:
    """Precision-recall curves in the order of the legend, with a dotted line at each prevalence."""
    prevalence = {c.name: c.prevalence for c in classes}

    def draw(axes: Axes) -> None:
        for i, curve in enumerate(curves):
            colour, line = _line(i)
            axes.axhline(prevalence[curve.name], color=colour, lw=0.9, ls=":")
            axes.step(curve.recall, curve.precision, where="post", color=colour, lw=1.5, ls=line)
        axes.set(xlabel="sensitivity (recall)", ylabel="PPV (precision)", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.set_aspect("equal")

    return svg(draw, width=4.2, height=4.0, name="precision-recall curves; dotted: prevalence")


def plain(name: str) -> str:
    """A name as it is written: matplotlib would read what stands between two `$` as a formula."""
    return name.replace("$", r"\$")


def _line(index: int) -> tuple[str, str]:
    """Colour and dash of the n-th curve; every second is dashed, for readers who see no colours."""
    return COLOURS[index], "--" if index % 2 else "-"


def reliability(result: ProbeResult) -> str:
    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=":")
        for name, colour, marker in (("before", GREY, "s"), ("after", ACCENT, "o")):
            found = result.calibration[name]
            sizes = [8 + 60 * b.rows / max(x.rows for x in found.bins) for b in found.bins]
            x, y = [b.confidence for b in found.bins], [b.observed for b in found.bins]
            axes.scatter(x, y, s=sizes, color=colour, marker=marker, alpha=0.8, clip_on=False)
        observed = "share positive" if result.request.multilabel else "share right"
        axes.set(xlabel="probability given", ylabel=observed, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.set_aspect("equal")

    return svg(draw, width=4.2, height=4.0, name="reliability diagram; larger marks: more rows")


def label_efficiency(curve: FewShot, counted: str) -> str:
    """Test AUC by the number of groups; `counted` names them."""
    points = curve.points[:-1]

    def draw(axes: Axes) -> None:
        x = [p.patients_per_class for p in points]
        mean = [p.auc_mean for p in points]
        axes.fill_between(x, [p.auc_mean - p.auc_sd for p in points], [p.auc_mean + p.auc_sd for p in points],
                          color=ACCENT, alpha=0.15, lw=0)  # fmt: skip
        axes.plot(x, mean, "o-", color=ACCENT, lw=1.5, ms=4)
        axes.axhline(curve.points[-1].auc_mean, color=GREY, lw=0.9, ls="--")
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [str(n) for n in x])
        axes.set(xlabel=plain(counted) if len(counted) <= MOST_LETTERS else "groups a class", ylabel="test AUC")

    return svg(draw, name="label efficiency")


def penalty_sweep(selection: Selection, what: str) -> str:
    """`what` (inner AUC, or inner error) of each value tried."""
    both = [(c.value, c.auc if math.isnan(c.error) else c.error) for c in selection.candidates]
    tried = [(value, found) for value, found in both if not math.isnan(found)]

    def draw(axes: Axes) -> None:
        axes.plot([value for value, _ in tried], [found for _, found in tried], "o-", color=ACCENT, lw=1, ms=4)
        axes.axvline(selection.value, color=GREY, lw=0.9, ls="--")
        axes.set_xscale("log")
        if selection.parameter == "k":
            axes.set_xticks([value for value, _ in tried], [f"{value:g}" for value, _ in tried])
            axes.minorticks_off()
        axes.set(xlabel=plain(selection.parameter), ylabel=what)

    return svg(draw, name=f"{what} by {selection.parameter}")
