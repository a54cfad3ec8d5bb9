"""The true classes of rows, in one form for classes, labels and ordinal grades."""

from __future__ import annotations

from dataclasses import dataclass

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

    @property
    def multilabel(self) -> bool:
        return self.codes is None

    @property
    def n(self) -> int:
        return len(self.positive)

    def take(self, rows: Int64) -> Truth:
        codes = None if self.codes is None else self.codes[rows]
        return Truth(self.classes, self.positive[rows], self.known[rows], codes, self.ordinal)

    def strata(self) -> Int64:
        """Class ids (n,) to stratify by; a multi-label row counts by its rarest positive label."""
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


def lacking(truth: Truth) -> tuple[str, ...]:
    """Classes without a row; labels without both a positive and a negative one."""
    positive = (truth.positive & truth.known).sum(0)
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
    return Truth(truth.classes, truth.positive, known, truth.codes, truth.ordinal)


def probabilities(logits: Float64, truth_is_multilabel: bool, temperature: float = 1.0) -> Float64:
    """Softmax of logits (n, c) / temperature; for multi-label, the logistic function of each. Softmax rows sum to 1."""
    scaled = np.asarray(logits, np.float64) / temperature
    if truth_is_multilabel:
        from scipy.special import expit

        out: Float64 = expit(scaled)
        return out
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(scaled / scaled.sum(axis=1, keepdims=True), np.float64)
