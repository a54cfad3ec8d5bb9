"""The true classes of rows, in one form for classes, labels and ordinal grades; and the numbers of other targets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from indexer.types import Bool, Float64, Int64


@dataclass(frozen=True)
class Truth:
    """n rows. A column is a class against the rest, or one label of a multi-label task."""

    classes: tuple[str, ...]  # (c,) names of the columns
    positive: Bool  # (n, c)
    known: Bool  # (n, c) False where a multi-label row has no value for that label
    codes: Int64 | None  # (n,) class ids; None for multi-label
    ordinal: bool = False  # the classes are grades in this order
    numbers: Float64 | None = None  # (n,) of a numeric target, or the times of survival (D36, D37)
    events: Bool | None = None  # (n,) of survival: whether the time is that of the event, not of the last visit

    @property
    def multilabel(self) -> bool:
        return self.codes is None

    @property
    def n(self) -> int:
        return len(self.positive)

    def take(self, rows: Int64) -> Truth:
        codes = None if self.codes is None else self.codes[rows]
        numbers = None if self.numbers is None else self.numbers[rows]
        events = None if self.events is None else self.events[rows]
        return Truth(self.classes, self.positive[rows], self.known[rows], codes, self.ordinal, numbers, events)

    def strata(self) -> Int64:
        """Class ids (n,) to stratify by: a multi-label row's rarest positive label, a number's fifth of all numbers."""
        if self.numbers is not None and self.events is None and len(self.numbers):
            return np.searchsorted(np.quantile(self.numbers, (0.2, 0.4, 0.6, 0.8)), self.numbers)
        if self.codes is not None:
            return self.codes
        frequency = (self.positive & self.known).sum(0)
        rarest = np.argsort(frequency, kind="stable")
        found = (self.positive & self.known)[:, rarest]
        return np.where(found.any(1), rarest[found.argmax(1)], len(self.classes)).astype(np.int64)


def class_truth(codes: Int64, classes: tuple[str, ...], *, ordinal: bool = False) -> Truth:
    positive = codes[:, None] == np.arange(len(classes))
    return Truth(classes, positive, np.ones_like(positive), codes.astype(np.int64), ordinal)


def label_truth(values: Float64, labels: tuple[str, ...]) -> Truth:
    """Multi-label truth from values (n, labels): 1, 0, or NaN for unknown."""
    known = ~np.isnan(values)
    return Truth(labels, known & (values == 1), known, None)


def label_as_classes(truth: Truth, j: int) -> tuple[Int64, Truth]:
    """The rows where label j is known, and their truth as two classes, "NAME: no" and "NAME: yes"."""
    rows, name = np.flatnonzero(truth.known[:, j]), truth.classes[j]
    return rows, class_truth(truth.positive[rows, j].astype(np.int64), (f"{name}: no", f"{name}: yes"))


def both_sides(p: Float64) -> Float64:
    """(n, 2) of a label's probabilities (n,): without it, with it."""
    return np.stack([1 - p, p], axis=1)


def number_truth(numbers: Float64, name: str) -> Truth:
    """A numeric target: one column of which every row is "positive", so that counts are counts of rows."""
    every = np.ones((len(numbers), 1), bool)
    return Truth((name,), every, every, np.zeros(len(numbers), np.int64), numbers=numbers)


def survival_truth(times: Float64, events: Bool) -> Truth:
    """Times with their events; the two classes count rows without and with an event."""
    return replace(class_truth(events.astype(np.int64), ("censored", "event")), numbers=times, events=events)


def lacking(truth: Truth) -> tuple[str, ...]:
    """Classes without a row; labels without both a positive and a negative one."""
    positive = (truth.positive & truth.known).sum(0)
    if truth.events is not None:  # without censored rows every time is known, which lacks nothing
        return () if truth.events.any() else truth.classes[1:]
    if not truth.multilabel:
        return tuple(name for name, count in zip(truth.classes, positive, strict=True) if count == 0)
    negative = truth.known.sum(0) - positive
    return tuple(n for n, p, m in zip(truth.classes, positive, negative, strict=True) if p == 0 or m == 0)


def hide_absent(truth: Truth, absent: tuple[str, ...]) -> Truth:
    """The truth with these columns marked unknown, so that their metrics are NaN and excluded from means (D1, D7)."""
    if not absent:
        return truth
    known = truth.known.copy()
    known[:, [truth.classes.index(name) for name in absent]] = False
    return replace(truth, known=known)


def probabilities(logits: Float64, truth_is_multilabel: bool, temperature: float = 1.0) -> Float64:
    """Softmax of logits (n, c) / temperature; for multi-label, the logistic function of each. Softmax rows sum to 1."""
    scaled = np.asarray(logits, np.float64) / temperature
    if truth_is_multilabel:
        from scipy.special import expit

        out: Float64 = expit(scaled)
        return out
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(scaled / scaled.sum(axis=1, keepdims=True), np.float64)
