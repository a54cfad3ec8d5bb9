"""Intervals drawn as bars in a column of a table (a forest plot whose labels are the table's own)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
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
    show: Callable[[float], str] = number

    def place(self, value: float) -> str:
        """A position along the bar, in per cent."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"

    def head(self, name: str) -> str:
        """The header's cell: what is drawn, and the ends of the scale."""
        low, high = (f"{end:.2f}" if self.show is number else self.show(end) for end in (self.low, self.high))
        ends = f"<span class='ends'><span>{low}</span><span>{high}</span></span>"
        return f"<th class='range' scope='col'>{escape(name)}{ends}</th>"

    def bar(self, value: Interval | None) -> str:
        """A cell with a dot at the value and a line along its interval; empty where there is none."""
        if value is None or math.isnan(value.value):
            return "<td class='range'></td>"
        low, high = (value.value, value.value) if math.isnan(value.low) else (value.low, value.high)
        text = f"{self.show(value.value)}, {self.show(low)} to {self.show(high)}"
        return (
            f"<td class='range'><svg role='img' aria-label='{text}'>"
            f"<line class='reference' x1='{self.place(self.reference)}' x2='{self.place(self.reference)}' y1='-40%' "
            f"y2='140%'/><line x1='{self.place(low)}' x2='{self.place(high)}' y1='50%' y2='50%'/>"
            f"<circle cx='{self.place(value.value)}' cy='50%' r='4'/></svg></td>"
        )


def scale(values: Iterable[Interval | None], reference: float, show: Callable[[float], str] = number) -> Scale:
    """A scale from one multiple of a step to another that holds every interval and the reference.

    The step is STEP, or half the power of ten below the range where numbers may be of any size.
    """
    ends = [reference]
    for value in values:
        if value is not None:
            ends += [number for number in (value.value, value.low, value.high) if not math.isnan(number)]
    step, range_ = STEP, max(ends) - min(ends)
    if show is not number and range_ > 0:
        step = 10.0 ** math.floor(math.log10(range_)) / 2
    steps = math.floor(min(ends) / step + ROUNDING), math.ceil(max(ends) / step - ROUNDING)
    return Scale(steps[0] * step, max(steps[1], steps[0] + 1) * step, reference, show)
