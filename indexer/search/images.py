"""Query images and their conversion to unit vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import InputError, PixelError, sentence
from indexer.types import EncoderSpec, Float64, UInt8, part_key

BATCH = 64
SMALL, LARGE = 1e-200, 1e200  # between them a squared length is as exact as any


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


def image_vectors(images: Sequence[QueryImage], encoder: Any) -> Float64:
    """Unit vectors (q, dim), decoded as the table's images were. Raises InputError that names the bad image."""
    parts = []
    for start in range(0, len(images), BATCH):
        pixels = np.stack([_pixels(image, encoder.spec) for image in images[start : start + BATCH]])
        parts.append(encoder.embed(pixels))
    raw = np.concatenate(parts) if parts else np.empty((0, encoder.spec.dim), np.float32)
    return unit(raw, [image.name for image in images])


def image_parts(images: Sequence[QueryImage], encoder: Any) -> tuple[Float64, list[str]]:
    """Unit vectors (m, dim) and names of all parts (frames, pages, slices) of these images. Raises InputError."""
    from indexer.pixels import decode

    raw, names = [np.empty((0, encoder.spec.dim), np.float32)], list[str]()
    waiting: list[UInt8] = []
    for image in images:
        try:
            for picture in decode(image.data, image.suffix, encoder.spec.pixels, frames="all"):
                names.append(part_key(image.name, picture.part.name))
                waiting.append(picture.pixels)
                if len(waiting) == BATCH:
                    raw.append(encoder.embed(np.stack(waiting)))
                    waiting = []
        except PixelError as error:
            raise _undecodable(image, error) from error
    if waiting:
        raw.append(encoder.embed(np.stack(waiting)))
    return unit(np.concatenate(raw), names), names


def unit(vectors: npt.NDArray[Any], names: Sequence[str]) -> Float64:
    """Rows scaled to length 1. Raises InputError for a row without direction (zero, NaN, infinite)."""
    rows = np.ascontiguousarray(vectors, np.float64)
    squares = np.einsum("ij,ij->i", rows, rows)
    if not (squares.min(initial=1) > SMALL and squares.max(initial=1) < LARGE):
        rows, squares = _scaled(rows, squares, names)
    unit_rows: Float64 = rows / np.sqrt(squares)[:, None]
    return unit_rows


def _scaled(rows: Float64, squares: Float64, names: Sequence[str]) -> tuple[Float64, Float64]:
    """The rows whose squares would overflow or underflow, divided by their largest number; and all squared lengths."""
    largest = np.abs(rows).max(axis=1, initial=0)
    bad = np.flatnonzero(~(np.isfinite(largest) & (largest > 0)))
    if len(bad):
        raise InputError(f"query {names[bad[0]]} has no direction: its vector is zero or not finite.")
    odd = np.flatnonzero(~((squares > SMALL) & (squares < LARGE)))
    rows, squares = rows.copy(), squares.copy()
    rows[odd] /= largest[odd, None]
    squares[odd] = np.einsum("ij,ij->i", rows[odd], rows[odd])
    return rows, squares


def _pixels(image: QueryImage, spec: EncoderSpec) -> UInt8:
    from indexer.pixels import decode

    try:
        # Of several parts the middle one is the query: the first is often a localiser or empty.
        (picture,) = decode(image.data, image.suffix, spec.pixels, frames="middle")
    except PixelError as error:
        raise _undecodable(image, error) from error
    return picture.pixels


def _undecodable(image: QueryImage, error: PixelError) -> InputError:
    return InputError(f"query image {image.name} cannot be decoded: {sentence(error)}.")
