"""Queries (keys, image bytes, text, vectors from a file) and their conversion to unit vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from indexer.errors import InputError, PixelError, sentence
from indexer.types import EncoderSpec, Float64, UInt8

BATCH = 64

QueryKind = Literal["image", "key", "text", "vector"]


@dataclass(frozen=True)
class QueryImage:
    """An image to search with."""

    name: str  # for messages and results
    data: bytes
    suffix: str  # lower case, no dot; "": the format is detected from the bytes

    @property
    def content(self) -> str:
        """sha256 of the bytes, as in the table's `content` column."""
        return hashlib.sha256(self.data).hexdigest()


def read_image(path: Path) -> QueryImage:
    """Read a query image from a file. Raises InputError."""
    from indexer.archive.samples import split_name

    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"query image {path} cannot be read: {error.strerror}. Name an image file.") from error
    return QueryImage(str(path), data, split_name(path.name)[1])


@dataclass(frozen=True)
class Query:
    """Queries, all of one kind. Raises InputError unless exactly one kind is given."""

    keys: tuple[str, ...] = ()  # of stored images
    images: tuple[QueryImage, ...] = ()
    texts: tuple[str, ...] = ()
    vectors: npt.NDArray[Any] | None = None  # (q, dim) raw or unit rows
    names: tuple[str, ...] = ()  # of the vectors, for the result; default: "row 0", "row 1", …
    own: tuple[Any, ...] | None = None  # for vectors and images: each query's value in the column of `exclude_same`

    def __post_init__(self) -> None:
        given = [bool(self.keys), bool(self.images), bool(self.texts), self.vectors is not None]
        if sum(given) != 1:
            raise InputError("a query is either keys, images, texts or vectors.")

    @property
    def kind(self) -> QueryKind:
        if self.vectors is not None:
            return "vector"
        return "key" if self.keys else "image" if self.images else "text"

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each query: its key, file, text, or row."""
        if self.vectors is not None:
            return self.names or tuple(f"row {i}" for i in range(len(self.vectors)))
        return self.keys or self.texts or tuple(image.name for image in self.images)


def image_vectors(images: Sequence[QueryImage], encoder: Any) -> Float64:
    """Unit vectors (q, dim), decoded as the table's images were. Raises InputError that names the bad image."""
    parts = []
    for start in range(0, len(images), BATCH):
        pixels = np.stack([_pixels(image, encoder.spec) for image in images[start : start + BATCH]])
        parts.append(encoder.embed(pixels))
    raw = np.concatenate(parts) if parts else np.empty((0, encoder.spec.dim), np.float32)
    return unit(raw, [image.name for image in images])


def load_vectors(path: Path, dim: int) -> Float64:
    """Unit vectors (q, dim) from a .npy file of shape (q, dim) or (dim,). Raises InputError."""
    try:
        with path.open("rb") as file:
            raw = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise InputError(
            f"--vectors {path} cannot be read: {error.strerror or sentence(error)}. Name a .npy file."
        ) from error
    except ValueError as error:  # numpy's own words advise to unpickle it, which would run the file's code
        raise InputError(
            f"--vectors {path} is not a .npy file of numbers, or is truncated. numpy.save(FILE, vectors) writes one."
        ) from error
    if raw.ndim == 1:
        raw = raw[None]
    real = np.issubdtype(raw.dtype, np.integer) or np.issubdtype(raw.dtype, np.floating)
    if raw.ndim != 2 or raw.shape[1] != dim or not real:
        raise InputError(
            f"--vectors {path} has shape {raw.shape} {raw.dtype}; the table needs (queries, {dim}) numbers."
        )
    return unit(raw, [f"row {i}" for i in range(len(raw))])


def unit(vectors: npt.NDArray[Any], names: Sequence[str]) -> Float64:
    """Rows scaled to length 1. Raises InputError for a row without direction (zero, NaN, infinite)."""
    rows = np.ascontiguousarray(vectors, np.float64)
    # Divide by the largest number first: the square of a very large or small number would overflow or underflow.
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)
    bad = np.flatnonzero(~(np.isfinite(largest[:, 0]) & (largest[:, 0] > 0)))
    if len(bad):
        raise InputError(f"query {names[bad[0]]} has no direction: its vector is zero or not finite.")
    scaled = rows / largest
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit_rows: Float64 = scaled / lengths
    return unit_rows


def _pixels(image: QueryImage, spec: EncoderSpec) -> UInt8:
    from indexer.pixels import decode

    try:
        # Of several parts the middle one is the query: the first is often a localiser or empty.
        (picture,) = decode(image.data, image.suffix, spec.pixels, frames="middle")
    except PixelError as error:
        raise InputError(f"query image {image.name} cannot be decoded: {sentence(error)}.") from error
    return picture.pixels
