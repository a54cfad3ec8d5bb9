"""A probe's test images by what the probe called them: cells of its confusion matrix and bins of its calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexer.errors import InputError, RowNotFound
from indexer.serve.http.probes import Listed
from indexer.types import Bool, Float64, Int64
from probes.evaluation.metrics import ECE_BINS, ece_bin
from probes.outputs import PREDICTIONS
from probes.runs.result import ProbeResult

MOST_BYTES = 256 << 20  # of a file that is read
MOST_ROWS = 1_000_000
WAY_OUT = "Run the probe again with the same --out."


@dataclass(frozen=True)
class Calls:
    """What a probe said of its test images: one entry an image, or of labels one for each known label of an image."""

    classes: tuple[str, ...]
    keys: pa.ChunkedArray  # (images,)
    image: Int64  # (n,) positions in `keys`
    true: Int64  # (n,) codes of the true class; of labels the label's code
    called: Int64  # (n,) codes of the most probable class; of labels the label's code
    confidence: Float64  # (n,) probability of `called`
    right: Bool  # (n,) the true class was called; of labels: the label holds
    labels: bool  # several labels an image, so that there is no confusion matrix

    def confusion(self) -> Int64:
        """Counts (c, c), rows true, columns called."""
        c = len(self.classes)
        return np.bincount(self.true * c + self.called, minlength=c * c).reshape(c, c)

    def bins(self) -> list[dict[str, Any]]:
        """The reliability diagram's bins (k/B, (k+1)/B] that are not empty (D8)."""
        of = ece_bin(self.confidence)
        rows = np.bincount(of, minlength=ECE_BINS)
        sums = (np.bincount(of, weights=w, minlength=ECE_BINS) for w in (self.confidence, self.right.astype(float)))
        confidence, right = (total / np.maximum(rows, 1) for total in sums)
        return [
            {
                "bin": k, "low": k / ECE_BINS, "high": (k + 1) / ECE_BINS, "rows": int(rows[k]),
                "confidence": float(confidence[k]), "observed": float(right[k]),
            }
            for k in np.flatnonzero(rows).tolist()
        ]  # fmt: skip

    def select(self, true: str | None, called: str | None, own_bin: int | None) -> Int64:
        """Entries (m,) of a true class, a called class and a bin, where given: wrong ones first, then by confidence.

        Raises InputError for an unknown class.
        """
        keep = np.ones(len(self.image), bool)
        for name, codes in ((true, self.true), (called, self.called)):
            if name is not None:
                keep &= codes == self._code(name)
        if own_bin is not None:
            keep &= ece_bin(self.confidence) == own_bin
        found = np.flatnonzero(keep)
        order: Int64 = found[np.lexsort((found, -self.confidence[found], self.right[found]))]
        return order

    def entries(self, chosen: Int64) -> list[dict[str, Any]]:
        """Key, classes and confidence of these, in order."""
        keys = self.keys.take(pa.array(self.image[chosen])).to_pylist()
        return [
            {
                "key": key, "true": self.classes[self.true[i]], "called": self.classes[self.called[i]],
                "right": bool(self.right[i]), "confidence": float(self.confidence[i]),
            }
            for key, i in zip(keys, chosen.tolist(), strict=True)
        ]  # fmt: skip

    def _code(self, name: str) -> int:
        if name not in self.classes:
            raise InputError("no class of that name in this result.")
        return self.classes.index(name)


def has_calls(found: Listed) -> bool:
    """Whether the result's predictions of classes lie beside it."""
    return bool(found.result.test.classes) and _sound(found.folder / PREDICTIONS)


def read_calls(found: Listed) -> Calls:
    """The predictions beside a result. Raises RowNotFound where there are none, InputError where they are not its."""
    path = found.folder / PREDICTIONS
    if not found.result.test.classes:
        raise RowNotFound(f"result {found.name} is of no classes: its predictions have no cells and bins.")
    if not _sound(path):
        raise RowNotFound(
            f"result {found.name} has no {PREDICTIONS} of its test images (a nested cross-validation writes none)."
        )
    try:
        with pq.ParquetFile(path, read_dictionary=["key", "true"]) as file:
            if file.metadata.num_rows > MOST_ROWS:
                raise InputError(f"{PREDICTIONS} of {found.name} has more than {MOST_ROWS:,} rows, too many to show.")
            classes = tuple(c.name for c in found.result.test.classes)
            probabilities = [f"p({name})" for name in classes]
            labels = found.result.request.multilabel
            names = ["key", *probabilities, *([f"true({name})" for name in classes] if labels else ["true"])]
            table = file.read(names)
        p = np.stack([table.column(name).to_numpy().astype(np.float64) for name in probabilities], axis=1)
        made = (_of_labels if labels else _of_classes)(classes, table, p)
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        cause = str(error).splitlines()[0][:200]
        raise InputError(f"{PREDICTIONS} of {found.name} cannot be read ({cause}). {WAY_OUT}") from error
    if not _is_of(made, found.result):
        raise InputError(f"{PREDICTIONS} of {found.name} is not of this result. {WAY_OUT}")
    return made


def _of_classes(classes: tuple[str, ...], table: pa.Table, p: Float64) -> Calls:
    codes = {name: code for code, name in enumerate(classes)}
    true = np.array([codes[name] for name in table.column("true").to_pylist()], np.int64)
    called = p.argmax(axis=1).astype(np.int64) if len(p) else true
    every = np.arange(len(p))
    return Calls(classes, table.column("key"), every, true, called, p[every, called], called == true, False)


def _of_labels(classes: tuple[str, ...], table: pa.Table, p: Float64) -> Calls:
    known = np.stack([np.asarray(table.column(f"true({name})").is_valid(), bool) for name in classes], axis=1)
    holds = np.stack([np.asarray(table.column(f"true({name})").fill_null(False), bool) for name in classes], axis=1)
    image, label = np.nonzero(known)
    return Calls(classes, table.column("key"), image, label, label, p[known], holds[known], True)


def _is_of(calls: Calls, result: ProbeResult) -> bool:
    if not np.isfinite(calls.confidence).all() or len(calls.keys) != result.test.rows:
        return False
    return calls.labels or not result.confusion or calls.confusion().tolist() == [list(row) for row in result.confusion]


def _sound(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size <= MOST_BYTES
