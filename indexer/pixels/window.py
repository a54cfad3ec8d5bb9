"""`--window`: the conversion of deeper grey values to 8 bits. Parsing, presets, and the formulas of DICOM windows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from indexer.errors import WindowError
from indexer.types import Float64

CT_PRESETS: dict[str, tuple[float, float]] = {  # centre, width in Hounsfield units, as on workstations
    "brain": (40, 80),
    "stroke": (40, 40),
    "subdural": (75, 215),
    "bone": (500, 2000),
    "lung": (-600, 1500),
    "mediastinum": (50, 350),
    "abdomen": (40, 400),
    "liver": (80, 150),
    "soft-tissue": (50, 400),
    "angio": (300, 600),
}
PERCENTILES = (0.5, 99.5)
_NUMBER = r"[+-]?\d+(?:\.\d+)?"
_CENTRE_WIDTH = re.compile(rf"\s*({_NUMBER})\s*,\s*({_NUMBER})\s*")


@dataclass(frozen=True)
class Window:
    """Centre, width and function of a window, in the units of the image's real values (DICOM PS3.3 C.11.2.1)."""

    center: float
    width: float
    function: str = "LINEAR"  # LINEAR | LINEAR_EXACT | SIGMOID

    def usable(self) -> bool:
        """PS3.3 C.11.2.1.2 to .3: LINEAR needs a width of at least 1, the others of more than 0."""
        finite = np.isfinite(self.center) and np.isfinite(self.width)
        return bool(finite and (self.width >= 1 if self.function == "LINEAR" else self.width > 0))

    def apply(self, values: Float64) -> Float64:
        """Values → 0..1, by the window's limits and not by the minimum and maximum of the result."""
        if self.function == "SIGMOID":  # C.11.2.1.3.1
            return 1 / (1 + np.exp(np.clip(-4 * (values - self.center) / self.width, -700, 700)))
        if self.function == "LINEAR_EXACT":  # C.11.2.1.3.2
            return ramp(values, self.center - self.width / 2, self.center + self.width / 2)
        half = (self.width - 1) / 2  # C.11.2.1.2.1
        return ramp(values, self.center - 0.5 - half, self.center - 0.5 + half)


def ramp(values: Float64, low: float, high: float) -> Float64:
    """0 at or below `low`, 1 above `high`, linear between; a step where they are equal."""
    if high <= low:
        return np.where(values > low, 1.0, 0.0)
    return np.clip((values - low) / (high - low), 0.0, 1.0)


@dataclass(frozen=True)
class WindowRule:
    """The source of the window of one channel."""

    kind: Literal["file", "percentile", "minmax", "full", "fixed"]
    window: Window | None = None  # of kind "fixed"
    preset: str = ""  # name of the CT preset, in Hounsfield units; not applied to another modality


def parse_window(text: str) -> tuple[WindowRule, ...]:
    """One rule, or three (joined by ";") for red, green and blue. Raises WindowError."""
    rules = tuple(_rule(part) for part in text.split(";"))
    if len(rules) not in (1, 3):
        raise WindowError(f'--window "{text}" has {len(rules)} windows. Give one, or three joined by ";" for RGB.')
    return rules


def _rule(text: str) -> WindowRule:
    name = text.strip().lower()
    if name in ("file", "percentile", "minmax", "full"):
        return WindowRule(name)  # type: ignore[arg-type]  # tested above
    if name in CT_PRESETS:
        return WindowRule("fixed", Window(*CT_PRESETS[name]), name)
    match = _CENTRE_WIDTH.fullmatch(text)
    if not match:
        raise WindowError(
            f'--window "{text}" is none of file, percentile, minmax, full, CENTRE,WIDTH or {", ".join(CT_PRESETS)}.'
        )
    window = Window(float(match[1]), float(match[2]))
    if not window.usable():
        raise WindowError(f'--window "{text}": the width must be at least 1.')
    return WindowRule("fixed", window)


def weighted_percentiles(values: Float64, counts: Float64, percents: tuple[float, float]) -> tuple[float, float]:
    """Percentiles of values (n,) that occur counts (n,) times, with numpy's default (linear) interpolation."""
    order = np.argsort(values, kind="stable")
    values, ends = values[order], np.cumsum(counts[order])
    ranks = np.asarray(percents) / 100 * (ends[-1] - 1)
    below = np.floor(ranks)
    low = values[np.searchsorted(ends, below, side="right")]
    high = values[np.searchsorted(ends, np.ceil(ranks), side="right")]
    first, second = low + (high - low) * (ranks - below)
    return float(first), float(second)
