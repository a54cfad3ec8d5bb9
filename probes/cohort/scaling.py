"""D3: scales stored unit rows to the features of a probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from indexer.errors import ProbeError
from indexer.types import Float16, Float32, Float64, Int64

SCALINGS = ("l2", "zscore", "center_l2", "none", "raw")
BLOCK = 2048  # rows scaled at once


@dataclass(frozen=True)
class Vectors:
    """The table's vectors; `norms` only where raw features are requested."""

    unit: Float16  # (n, dim), may be memory-mapped
    norms: Float32 | None = None  # (n,) raw = unit · norm

    @property
    def dim(self) -> int:
        return int(self.unit.shape[1])


@dataclass(frozen=True)
class Scaler:
    """`l2`: unit row × √dim; `zscore`: (x - mean)/SD; `center_l2`: (x - mean)/‖·‖; `none`: unit rows; `raw`: × norm."""

    kind: str
    mean: Float64  # (dim,) of the train rows; zeros where unused
    sd: Float64  # (dim,) ones where unused


def fit_scaler(kind: str, vectors: Vectors, train: Int64) -> Scaler:
    """Fit means and standard deviations on the train rows only. Raises ProbeError for an unknown kind."""
    if kind not in SCALINGS:
        raise ProbeError(f"no scaling {kind!r}. Use one of {', '.join(SCALINGS)}.")
    mean, sd = np.zeros(vectors.dim), np.ones(vectors.dim)
    if kind in ("zscore", "center_l2"):
        first, second = np.zeros(vectors.dim), np.zeros(vectors.dim)
        for start in range(0, len(train), BLOCK):
            block = _unit(vectors.unit[train[start : start + BLOCK]]).astype(np.float64)
            first += block.sum(0)
            second += (block**2).sum(0)
        mean = first / len(train)
        if kind == "zscore":
            sd = np.sqrt(np.maximum(second / len(train) - mean**2, 0))
            sd[sd < 1e-9] = 1.0  # a constant feature stays 0 and is not amplified
    return Scaler(kind, mean, sd)


def features(vectors: Vectors, rows: Int64, scaler: Scaler, dtype: Any = np.float32) -> Any:
    """Scaled features (len(rows), dim), filled block by block, without a second copy of the matrix."""
    out = np.empty((len(rows), vectors.dim), dtype)
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        norms = None if vectors.norms is None else vectors.norms[part]
        out[start : start + BLOCK] = scale(vectors.unit[part], scaler, norms)
    return out


@dataclass(frozen=True)
class ScaledRows:
    """Float64 features (len(rows), dim), computed block by block: all of them would take four times the table."""

    vectors: Vectors
    rows: Int64
    scaler: Scaler

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.vectors.dim

    def __getitem__(self, part: slice) -> Float64:
        rows = self.rows[part]
        norms = None if self.vectors.norms is None else self.vectors.norms[rows]
        return scale(self.vectors.unit[rows], self.scaler, norms)

    def take(self, rows: Int64) -> ScaledRows:
        return ScaledRows(self.vectors, self.rows[rows], self.scaler)

    def whole(self) -> Float64:
        made: Float64 = features(self.vectors, self.rows, self.scaler, np.float64)
        return made


@dataclass(frozen=True)
class TakenRows:
    """Rows of a feature matrix, copied block by block: a copy of a fold would be most of a second matrix."""

    x: Any  # (m, dim)
    rows: Int64

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), int(self.x.shape[1])

    def __getitem__(self, part: slice) -> Any:
        return self.x[self.rows[part]]

    def take(self, rows: Int64) -> TakenRows:
        return TakenRows(self.x, self.rows[rows])

    def whole(self) -> Any:
        return self.x[self.rows]


def scale(stored: Float16, scaler: Scaler, norms: Float32 | None = None) -> Float64:
    """Scaled features of stored rows (m, dim), in float64. `norms` (m,) are needed for `raw`."""
    if scaler.kind == "l2":
        return _unit(stored, float(np.sqrt(stored.shape[1])))
    unit = _unit(stored)
    if scaler.kind == "zscore":
        return (unit - scaler.mean) / scaler.sd
    if scaler.kind == "center_l2":
        centred = unit - scaler.mean
        return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12))
    if scaler.kind == "raw":
        if norms is None:
            raise ProbeError("raw features need the vectors' norms. Use another --scaling.")
        return unit * norms[:, None]
    return unit


def _unit(stored: Float16, length: float = 1.0) -> Float64:
    """Rows in float64, scaled to `length`: float16 rows have length 1 to three digits only."""
    rows = stored.astype(np.float64)
    rows *= (length / np.sqrt(np.einsum("ij,ij->i", rows, rows)))[:, None]
    return rows


def make_unit(x: Float32) -> None:
    """Divide each row by its length, in place and in blocks, since all squares at once would be a second matrix."""
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK]
        block /= np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12)


def rows_of(x: Any, rows: Int64) -> Any:
    """Rows of a matrix; a view where they are contiguous, e.g. train and val, which follow each other."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all():
        return x[rows[0] : rows[-1] + 1]
    return x[rows]
