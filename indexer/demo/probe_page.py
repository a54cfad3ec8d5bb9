"""The probes' part of the demo page: tables with intervals and baselines, a confusion matrix, and curves."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = {
    "auc_macro": "AUC, macro", "ap_macro": "average precision, macro", "balanced_accuracy": "balanced accuracy",
    "f1_macro": "F1, macro", "ece": "calibration error (ECE)",
}  # fmt: skip
INK, ACCENT = "#1d2730", "#0b62a4"

STYLE = """
.side { display: flex; flex-wrap: wrap; gap: 24px; align-items: flex-start }
table.grid td { text-align: center; padding: 3px 8px; border: 1px solid #e3e6e9 } table.grid { font-size: 13px }
table.grid th { font-weight: 500; color: #44505a; padding: 3px 8px }
"""


def probe_part(kind: str, result: Mapping[str, Any], folder: str) -> list[str]:
    """One probe: its split, its metrics beside the baselines, where it errs, and its curve."""
    test = result["test"]
    return [
        f"<h2>Probe: {escape(kind)}, the anatomical level of axial slices</h2>",
        f"<p>{escape(result['split']['statement'])}. {test['rows']} test slices in {test['groups']} slabs, "
        f"{result['split']['parts']['train']['groups'] + result['split']['parts']['val']['groups']} slabs to fit and "
        "choose on.</p>",
        *(f"<p class='what'>{escape(warning)}</p>" for warning in result["warnings"]),
        _metrics(result),
        "<div class='side'>",
        f"<div>{_confusion(result)}</div>",
        f"<div>{_efficiency(result) if result['few_shot'] else _by_k(result['neighbours'])}</div>",
        "</div>",
        f"<p>The full report, with ROC and calibration curves and the leakage audit: "
        f"<code>{escape(folder)}/report.html</code></p>",
    ]


def _metrics(result: Mapping[str, Any]) -> str:
    baselines = result["baselines"]
    rows = []
    for key, name in SHOWN.items():
        value = result["test"]["metrics"][key]
        luck = "".join(f"<td>{_number(values.get(key))}</td>" for values in baselines.values())
        span = f"{_number(value['low'])} to {_number(value['high'])}"
        rows.append(f"<tr><td>{name}</td><td><b>{_number(value['value'])}</b></td><td>{span}</td>{luck}</tr>")
    names = ("metric", "test", "95 % interval", *(name.replace("_", " ") for name in baselines))
    heads = "".join(f"<th>{escape(n)}</th>" for n in names)
    return f"<table><tr>{heads}</tr>{''.join(rows)}</table>"


def _confusion(result: Mapping[str, Any]) -> str:
    """Rows are the true level, columns the predicted one."""
    classes = [c["name"] if isinstance(c, Mapping) else c for c in result["test"]["classes"]]
    counts: Sequence[Sequence[int]] = result["confusion"]
    most = max(max(row) for row in counts) or 1
    lines = [f"<tr><th></th>{''.join(f'<th>{escape(_short(c))}</th>' for c in classes)}</tr>"]
    for name, row in zip(classes, counts, strict=True):
        cells = "".join(f"<td style='background: rgba(11, 98, 164, {0.75 * n / most:.2f})'>{n or ''}</td>" for n in row)
        lines.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return f"<p>True level (row) and predicted level (column)</p><table class='grid'>{''.join(lines)}</table>"


def _short(name: str) -> str:
    return name.removeprefix("band ")


def _efficiency(result: Mapping[str, Any]) -> str:
    points = result["few_shot"]["points"]
    names = [str(p["patients_per_class"]) if p["draws"] > 1 else "all" for p in points]

    def draw(axes: Axes) -> None:
        spread = [p["auc_sd"] or 0.0 for p in points]
        axes.errorbar(range(len(points)), [p["auc_mean"] for p in points], spread, color=ACCENT, marker="o", capsize=3)
        axes.set_xticks(range(len(points)), names)
        axes.set(
            xlabel="slabs a level to fit on", ylabel="test AUC, mean ± SD of draws", xlim=(-0.3, len(points) - 0.7)
        )

    return _svg(draw, "How few labels are enough")


def _by_k(neighbours: Sequence[Mapping[str, Any]]) -> str:
    k = [str(n["k"]) for n in neighbours]

    def draw(axes: Axes) -> None:
        axes.plot(k, [n["auc_macro"] for n in neighbours], color=ACCENT, marker="o", label="test")
        axes.plot(k, [n["val_auc_macro"] for n in neighbours], color=INK, ls="--", marker="s", label="val, chooses k")
        axes.set(xlabel="neighbours k", ylabel="AUC, macro")
        axes.legend(frameon=False)

    return _svg(draw, "Every k from one search")


def _svg(draw: Callable[[Axes], None], title: str) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "svg.hashsalt": title}
    with mpl.rc_context(style):
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(title, fontsize=10, loc="left")
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
