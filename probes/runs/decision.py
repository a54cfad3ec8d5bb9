"""The thresholds by which predictions are decided: D11's operating points, or those asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexer.errors import InputError
from indexer.types import Bool, Float64
from probes.runs.bundle import BundleFacts

EVEN = 0.5  # of a class or label without an operating point


@dataclass(frozen=True)
class Decision:
    """The least probability at which a row is positive for a class, and what each comes from."""

    thresholds: dict[str, float]  # the positive one of two classes, or every class or label
    sources: dict[str, str]

    def above(self, classes: Sequence[str], p: Float64) -> Bool:
        """(n, c) whether p (n, c) reaches the class's threshold; False for a class without one."""
        limits = np.array([self.thresholds.get(name, math.inf) for name in classes])
        return np.asarray(p >= limits)

    def __str__(self) -> str:
        parts = [f"{name} at p ≥ {value:.4g} ({self.sources[name]})" for name, value in self.thresholds.items()]
        return ", ".join(parts[:4]) + (f", and {len(parts) - 4} more (--json has all)" if len(parts) > 4 else "")


def decision(facts: BundleFacts, asked: Sequence[str] = ()) -> Decision:
    """The bundle's operating points, replaced by `asked`: "0.3" where there is one, else "CLASS=0.3".

    Raises InputError for an unknown class, a number outside 0 to 1, or a number alone where there are several classes.
    """
    point = f"operating point for specificity ≥ {facts.request.specificity:g}"
    thresholds, sources = {}, {}
    for name, value in facts.thresholds.items():
        missing = value is None or math.isnan(value)
        thresholds[name], sources[name] = (EVEN, "it has no operating point") if missing else (value, point)
    for text in asked:
        name, _, number = text.rpartition("=")
        if not name and len(thresholds) > 1:
            raise InputError(f"--threshold {text} is for several classes. Give CLASS={text}: {', '.join(thresholds)}.")
        name = name or next(iter(thresholds), "")
        if name not in thresholds:
            known = ", ".join(thresholds) or "none"
            raise InputError(f"--threshold {text}: no class {name!r} that is decided by one; there are: {known}.")
        thresholds[name], sources[name] = _share(number, text), "as asked"
    return Decision(thresholds, sources)


def _share(number: str, text: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise InputError(f"--threshold {text}: {number!r} is not a probability. Give a number from 0 to 1.")
    return value
