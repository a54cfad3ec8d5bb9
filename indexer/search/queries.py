"""What a user asks with, as unit vectors: image bytes, vectors from a file, text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from indexer.errors import InputError, PixelError, sentence
from indexer.types import EncoderSpec, Float32, UInt8

BATCH = 64


@dataclass(frozen=True)
class QueryImage:
    """An image to search with."""

    name: str  # for messages and results
    data: bytes
    suffix: str  # lower case, no dot; "" lets the bytes say what they are

    @property
    def content(self) -> str:
        """sha256 of the bytes, as the table's `content` column has it."""
        return hashlib.sha256(self.data).hexdigest()


def read_image(path: Path) -> QueryImage:
    """Raises InputError."""
    from indexer.archive.samples import split_name

    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"query image {path} cannot be read: {error.strerror}.") from error
    return QueryImage(str(path), data, split_name(path.name)[1])


def image_vectors(images: Sequence[QueryImage], encoder: Any) -> Float32:
    """Unit vectors (q, dim), through the same decoding as the table's. Raises InputError naming the bad image."""
    parts = []
    for start in range(0, len(images), BATCH):
        pixels = np.stack([_pixels(image, encoder.spec) for image in images[start : start + BATCH]])
        parts.append(encoder.embed(pixels))
    raw = np.concatenate(parts) if parts else np.empty((0, encoder.spec.dim), np.float32)
    return unit(raw, [image.name for image in images])


def load_vectors(path: Path, dim: int) -> Float32:
    """Unit vectors (q, dim) of a .npy file with one query a row, or one query alone. Raises InputError."""
    try:
        with path.open("rb") as file:
            raw = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise InputError(f"--vectors {path} cannot be read: {error.strerror or sentence(error)}.") from error
    except ValueError as error:  # numpy's own words advise to unpickle it, which would run the file's code
        raise InputError(
            f"--vectors {path} is no .npy file of numbers, or a cut one. numpy.save(FILE, vectors) writes one."
        ) from error
    if raw.ndim == 1:
        raw = raw[None]
    if raw.ndim != 2 or raw.shape[1] != dim or not np.issubdtype(raw.dtype, np.number):
        raise InputError(
            f"--vectors {path} has shape {raw.shape} {raw.dtype}; the table needs (queries, {dim}) numbers."
        )
    return unit(raw.astype(np.float32), [f"row {i}" for i in range(len(raw))])


def unit(vectors: Float32, names: Sequence[str]) -> Float32:
    """Rows scaled to length 1. Raises InputError for a row without direction (zero, NaN, infinite)."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)))
    if len(bad):
        raise InputError(f"query {names[bad[0]]} has no direction: its vector is zero or not finite.")
    scaled: Float32 = vectors / lengths
    return scaled


def _pixels(image: QueryImage, spec: EncoderSpec) -> UInt8:
    from indexer.pixels import decode

    try:
        # Of a stack the middle part stands for the query: the first is often a localiser or empty.
        (picture,) = decode(image.data, image.suffix, spec.pixels, frames="middle")
    except PixelError as error:
        raise InputError(f"query image {image.name} cannot be decoded: {sentence(error)}.") from error
    return picture.pixels
