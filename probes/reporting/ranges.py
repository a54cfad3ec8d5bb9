"""Intervals drawn as bars in a column of a table (a forest plot whose labels are the table's own)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from probes.evaluation.bootstrap import Interval
from probes.reporting.words import number

STEP, ROUNDING = 0.05, 1e-9


@dataclass(frozen=True)
class Scale:
    """The values at the left and right end of the bars, and a reference drawn through all of them."""

    low: float
    high: float
    reference: float

    def place(self, value: float) -> str:
        """A position along the bar, in per cent."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"

    def head(self, name: str) -> str:
        """The header's cell: what is drawn, and the ends of the scale."""
        ends = f"<span class='ends'><span>{self.low:.2f}</span><span>{self.high:.2f}</span></span>"
        return f"<th class='range' scope='col'>{escape(name)}{ends}</th>"

    def bar(self, value: Interval | None) -> str:
        """A cell with a dot at the value and a line along its interval; empty where there is none."""
        if value is None or math.isnan(value.value):
            return "<td class='range'></td>"
        low, high = (value.value, value.value) if math.isnan(value.low) else (value.low, value.high)
        text = f"{number(value.value)}, {number(low)} to {number(high)}"
        return (
            f"<td class='range'><svg role='img' aria-label='{text}'>"
            f"<line class='reference' x1='{self.place(self.reference)}' x2='{self.place(self.reference)}' y1='-40%' "
            f"y2='140%'/><line x1='{self.place(low)}' x2='{self.place(high)}' y1='50%' y2='50%'/>"
            f"<circle cx='{self.place(value.value)}' cy='50%' r='4'/></svg></td>"
        )


def scale(values: Iterable[Interval | None], reference: float) -> Scale:
    """A scale from one multiple of `STEP` to another that holds every interval and the reference."""
    ends = [reference]
    for value in values:
        if value is not None:
            ends += [number for number in (value.value, value.low, value.high) if not math.isnan(number)]
    steps = math.floor(min(ends) / STEP + ROUNDING), math.ceil(max(ends) / STEP - ROUNDING)
    return Scale(steps[0] * STEP, max(steps[1], steps[0] + 1) * STEP, reference)
