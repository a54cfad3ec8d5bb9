"""Queries (keys, image bytes, text, vectors from a file, examples)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from indexer.errors import InputError, sentence
from indexer.search.blend import Blend
from indexer.search.images import QueryImage, unit
from indexer.types import Float64

QueryKind = Literal["image", "key", "text", "vector", "blend", "group"]


@dataclass(frozen=True)
class Query:
    """Queries, all of one kind. Raises InputError unless exactly one kind is given."""

    keys: tuple[str, ...] = ()  # of stored images
    images: tuple[QueryImage, ...] = ()
    texts: tuple[str, ...] = ()
    vectors: npt.NDArray[Any] | None = None  # (q, dim) raw or unit rows
    names: tuple[str, ...] = ()  # of the vectors, for the result; default: "row 0", "row 1", …
    own: tuple[Any, ...] | None = None  # for vectors and images: each query's value in the column of `exclude_same`
    blends: tuple[Blend, ...] = ()  # each of several examples
    groups: tuple[str, ...] = ()  # stored values of the column that a search is `by`

    def __post_init__(self) -> None:
        given = [bool(self.keys), bool(self.images), bool(self.texts), self.vectors is not None]
        if sum([*given, bool(self.blends), bool(self.groups)]) != 1:
            raise InputError("a query is either keys, images, texts, vectors, examples or groups.")

    @property
    def kind(self) -> QueryKind:
        if self.vectors is not None:
            return "vector"
        if self.blends or self.groups:
            return "blend" if self.blends else "group"
        return "key" if self.keys else "image" if self.images else "text"

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each query: its key, file, text, or row."""
        if self.vectors is not None:
            return self.names or tuple(f"row {i}" for i in range(len(self.vectors)))
        if self.blends:
            return tuple(blend.label for blend in self.blends)
        return self.keys or self.texts or self.groups or tuple(image.name for image in self.images)


def load_vectors(path: Path, dim: int, option: str = "--vectors") -> Float64:
    """Unit vectors (q, dim) from a .npy file of shape (q, dim) or (dim,), or the column `vector` of a Parquet file.

    Raises InputError, which names the option.
    """
    parquet = path.suffix.lower() in (".parquet", ".pq")
    try:
        with path.open("rb") as file:
            raw = _column_of(path) if parquet else np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise InputError(
            f"{option} {path} cannot be read: {error.strerror or sentence(error)}. Name a .npy file."
        ) from error
    except (
        ValueError,
        MemoryError,
    ) as error:  # numpy's own words advise to unpickle it, which would run the file's code
        way_out = "`indexer export` writes one." if parquet else "numpy.save(FILE, vectors) writes one."
        kind = "a Parquet file with a column `vector`" if parquet else "a .npy file"
        raise InputError(f"{option} {path} is not {kind} of numbers, or is truncated. {way_out}") from error
    if raw.ndim == 1:
        raw = raw[None]
    real = np.issubdtype(raw.dtype, np.integer) or np.issubdtype(raw.dtype, np.floating)
    if raw.ndim != 2 or raw.shape[1] != dim or not real:
        raise InputError(
            f"{option} {path} has shape {raw.shape} {raw.dtype}; the table needs (queries, {dim}) numbers."
        )
    return unit(raw, [f"row {i}" for i in range(len(raw))])


def _column_of(path: Path) -> npt.NDArray[Any]:
    """The vectors (q, dim) of a Parquet file. Raises ValueError, OSError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        column = pq.read_table(path, columns=["vector"]).column("vector").combine_chunks()
        flat = column.flatten()
    except (KeyError, AttributeError, pa.ArrowException) as error:
        raise ValueError(str(error)) from error
    if column.null_count or flat.null_count or not len(column) or len(flat) % len(column):
        raise ValueError("rows of several lengths, or none")
    numbers: npt.NDArray[Any] = flat.to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return numbers
