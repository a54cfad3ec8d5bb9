"""D4's objective, scikit-learn's, with its gradient: one pass over blocks of rows serves many tasks at once.

The passes are nearly all of a fit's time. For ten classes a product of a block with W is limited by memory; with the W
of several penalties, folds or labels below each other it is three times as fast for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from indexer.types import Float64, Int64

BLOCK_BYTES = 4 * 2**20  # of a block of rows, which is read twice, the second time from the processor's cache

Array = npt.NDArray[Any]
Point = tuple[Float64, Float64]  # W (outputs, dim), b (outputs,)
Run = Callable[..., Iterator[Any]]  # a map over blocks: probes.compute.threads


class Rows(Protocol):
    """Features (n, dim) read block by block: an array, or stored rows that are scaled on demand."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, part: slice, /) -> Array: ...


@dataclass(frozen=True)
class Task:
    """The objective: Σ wᵢ·CE(softmax(Wx + b), yᵢ) + ‖W‖²/(2C), divided by Σ wᵢ."""

    x: Rows  # (n, dim)
    codes: Int64  # (n,) 0 … classes - 1, every one present in a row of weight above 0
    classes: int  # two: one row of W, the log odds of the second class
    weights: Float64  # (n,) 0: not a row of this task
    c: float

    @property
    def outputs(self) -> int:
        return 1 if self.classes == 2 else self.classes


@dataclass(frozen=True)
class Double:
    """Rows in single precision, read as float64 block by block."""

    rows: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.shape

    def __getitem__(self, part: slice) -> Array:
        return np.asarray(self.rows[part], np.float64)


@dataclass(frozen=True)
class Value:
    """The divided objective at a point, its penalty term, and its gradient."""

    loss: float
    penalty: float
    of_coef: Float64  # (outputs, dim)
    of_intercept: Float64  # (outputs,)


def is_double(x: Rows) -> bool:
    return bool(x[0:1].dtype == np.float64)


def evaluate(x: Rows, tasks: Sequence[Task], points: Sequence[Point], run: Run) -> list[Value]:
    """Each task's Value at its point, in one pass over the rows x that all of them share.

    Products are in the rows' precision; the sums over blocks are in float64, in the order of the blocks.
    """
    kind = x[0:1].dtype
    coef = np.concatenate([w for w, _ in points]).astype(kind)
    intercept = np.concatenate([b for _, b in points]).astype(kind)[:, None]
    ends = np.cumsum([task.outputs for task in tasks])
    spans = [slice(int(end) - task.outputs, int(end)) for task, end in zip(tasks, ends, strict=True)]

    def block(part: slice) -> tuple[list[float], Float64, Float64]:
        rows = x[part]
        z = coef @ rows.T
        z += intercept
        losses = [_residuals(z[span], task, part) for span, task in zip(spans, tasks, strict=True)]
        return losses, (z @ rows).astype(np.float64), z.sum(1, dtype=np.float64)

    losses, of_coef, of_intercept = np.zeros(len(tasks)), np.zeros(coef.shape), np.zeros(len(coef))
    for loss, w, b in run(block, parts(x)):
        losses += loss
        of_coef += w
        of_intercept += b
    return [
        _value(task, point, float(loss), of_coef[span], of_intercept[span])
        for task, point, loss, span in zip(tasks, points, losses, spans, strict=True)
    ]


def _value(task: Task, point: Point, loss: float, of_coef: Float64, of_intercept: Float64) -> Value:
    total = float(task.weights.sum())
    ridge = 1 / (task.c * total)
    penalty = ridge * float((point[0] ** 2).sum()) / 2
    return Value(loss / total + penalty, penalty, of_coef / total + ridge * point[0], of_intercept / total)


def _residuals(z: Array, task: Task, part: slice) -> float:
    """The loss of a block, from its logits (outputs, rows), which become the residuals, times the rows' weights."""
    codes, weights = task.codes[part], task.weights[part]
    if task.outputs == 1:
        sign = np.where(codes == 1, z.dtype.type(1), z.dtype.type(-1))
        margin = sign * z[0]
        low = np.exp(-np.abs(margin))
        loss = np.maximum(-margin, 0) + np.log1p(low)
        z[0] = -sign * np.where(margin > 0, low, 1) / (1 + low)
    else:
        at = np.arange(len(codes))
        z -= z.max(axis=0)
        own = z[codes, at]
        np.exp(z, out=z)
        total = z.sum(axis=0)
        loss = np.log(total) - own
        z /= total
        z[codes, at] -= 1
    z *= weights.astype(z.dtype)
    return float(loss @ weights)


def priors(task: Task) -> Point:
    """W = 0, and b of the classes' frequencies."""
    share = np.bincount(task.codes, weights=task.weights, minlength=task.classes)
    log = np.log(share / share.sum())
    return np.zeros((task.outputs, task.x.shape[1])), np.array([log[1] - log[0]]) if task.outputs == 1 else log


def entropy(task: Task) -> float:
    """The divided objective at `priors`."""
    share = np.bincount(task.codes, weights=task.weights, minlength=task.classes) / task.weights.sum()
    return float(-(share * np.log(share)).sum())


def parts(x: Rows, every: int = 1) -> Iterator[slice]:
    """Blocks of rows; the first of each `every` consecutive ones."""
    rows = max(1, BLOCK_BYTES // (8 * x.shape[1]))
    for start in range(0, x.shape[0], rows * every):
        yield slice(start, min(start + rows, x.shape[0]))
