"""The share of queries whose nearest slice is right: by embedding, by raw pixels, and by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from indexer.demo.volume import PLANES, Slice
from indexer.types import Float32

CLOSE_MM = 6.0
RAW_SIDE = 64  # raw-pixel baseline: the image at 64 x 64, mean removed, by cosine

Queries = Mapping[str, tuple[Slice, Float32]]


@dataclass(frozen=True)
class Share:
    """The first hit of `close` of `queries` queries was a slice of the same plane within CLOSE_MM."""

    queries: int
    close: int

    @property
    def share(self) -> float:
        return self.close / self.queries


def embedding_shares(hits: Mapping[str, Sequence[Mapping[str, Any]]], queries: Queries) -> dict[str, Share]:
    """Shares by plane; only the first hit counts."""
    right: dict[str, list[bool]] = {plane: [] for plane in PLANES}
    for path, (item, _) in queries.items():
        first = hits[path][0]["columns"]
        right[item.plane].append(is_close(first["image_orientation"], first["slice_location"], item))
    return {plane: Share(len(r), sum(r)) for plane, r in right.items()}


def raw_pixel_shares(cuts: Sequence[Slice], queries: Queries) -> dict[str, Share]:
    """Shares by plane, with the nearest slice found by raw pixels."""
    kept = [item for item in cuts if not item.query]
    archive = np.stack([_flat(item.pixels) for item in kept])
    right: dict[str, list[bool]] = {plane: [] for plane in PLANES}
    for item, pixels in queries.values():
        right[item.plane].append(_close(kept[int(np.argmax(archive @ _flat(pixels)))], item))
    return {plane: Share(len(r), sum(r)) for plane, r in right.items()}


def chance(cuts: Sequence[Slice], queries: Queries) -> dict[str, float]:
    """The expected share of a random draw from the archive."""
    kept = [item for item in cuts if not item.query]
    shares: dict[str, list[float]] = {plane: [] for plane in PLANES}
    for item, _ in queries.values():
        shares[item.plane].append(float(np.mean([_close(other, item) for other in kept])))
    return {plane: float(np.mean(values)) for plane, values in shares.items()}


def gap_mm(plane: str, millimetres: float, asked: Slice) -> float:
    """Distance in mm of a slice of plane `plane` from the query slice `asked`.

    The template is left-right symmetric, so a sagittal slice equals its mirror image: there the distances from the
    midline are compared.
    """
    if plane == asked.plane == "sagittal":
        return abs(abs(millimetres) - abs(asked.millimetres))
    return abs(millimetres - asked.millimetres)


def is_close(plane: str, millimetres: float, asked: Slice) -> bool:
    return plane == asked.plane and gap_mm(plane, millimetres, asked) <= CLOSE_MM


def _close(found: Slice, asked: Slice) -> bool:
    return is_close(found.plane, found.millimetres, asked)


def _flat(pixels: Float32) -> Float32:
    """(h, w) → unit vector of the image, padded to a square, at RAW_SIDE x RAW_SIDE, with its mean removed."""
    from PIL import Image

    side = max(pixels.shape)
    square = np.zeros((side, side), np.float32)
    top, left = (side - pixels.shape[0]) // 2, (side - pixels.shape[1]) // 2
    square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    small = np.asarray(Image.fromarray(square).resize((RAW_SIDE, RAW_SIDE), Image.Resampling.BILINEAR)).reshape(-1)
    small = small - small.mean()
    unit: Float32 = (small / max(float(np.linalg.norm(small)), 1e-12)).astype(np.float32)
    return unit
