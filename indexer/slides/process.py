"""Reads slides in child processes with limits on CPU time and memory, since damaged files can crash their decoders.

Each child keeps the slides that it read last open. A child that dies fails the tile that it was reading.
"""

from __future__ import annotations

import importlib.util
import math
import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from indexer.errors import InputError, PixelError
from indexer.isolation.process import ChildProcess, Pool
from indexer.types import Int64, UInt8

CPU_SECONDS = 60  # for one region; for an overview more:
PIXELS_PER_SECOND = 1_000_000  # a tenth of what a slow decoder does
WALL_FACTOR = 12  # wall time allowed for each second of CPU time, since the machine may be busy
MOST_COORDINATES = 10_000_000  # of one slide

_pool = Pool("indexer.slides.child")


@dataclass(frozen=True)
class SlideFacts:
    """What the header of a slide says."""

    sizes: tuple[tuple[int, int], ...]  # width and height of each level in pixels, the finest first
    downsamples: tuple[float, ...]  # of each level
    mpp: tuple[float | None, float | None]  # micrometres a pixel of level 0, along x and y; None: not stated
    series: str = ""  # SeriesInstanceUID of a DICOM slide


def require_reader() -> None:
    """Raise InputError where the packages that read slides are not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("openslide", "h5py")):
        raise InputError("slides are read with the extra `wsi`: pip install 'embedding-indexer[wsi]'.")


@cache
def _require_reader_once() -> None:
    """As `require_reader`, which searches the disk: not for each tile."""
    require_reader()


def slide_facts(path: str) -> SlideFacts:
    """Raises PixelError where the file is no slide."""
    answer, _ = _ask({"ask": "facts", "path": path}, CPU_SECONDS)
    sizes = tuple((int(width), int(height)) for width, height in answer["sizes"])
    if not sizes or any(side <= 0 for size in sizes for side in size):
        raise PixelError("empty image", f"levels of {sizes} pixels")
    return SlideFacts(sizes, tuple(answer["downsamples"]), tuple(answer["mpp"]), answer["series"])


def region(path: str, *, x: int, y: int, level: int, side: int, tile: int) -> UInt8:
    """(tile, tile, 3) RGB: `side` pixels of `level` from the upper left corner at x, y of level 0, white outside.

    Resized once where `side` is not `tile`, by Pillow's antialiased bicubic filter, which computes in integers: the
    same bits on every machine. Raises PixelError.
    """
    asked = {"ask": "region", "path": path, "x": x, "y": y, "level": level, "side": side, "tile": tile}
    _, pixels = _ask(asked, CPU_SECONDS)
    assert pixels is not None
    return pixels


def overview(path: str, facts: SlideFacts, scale: float) -> UInt8:
    """(h, w, 3): the whole slide averaged over squares of `scale` >= 1 pixels of level 0, from the nearest finer level.

    Memory is bounded: the level is read in strips. Raises PixelError.
    """
    level = max(i for i, down in enumerate(facts.downsamples) if down <= scale * (1 + 1e-6))
    seconds = CPU_SECONDS + math.prod(facts.sizes[level]) // PIXELS_PER_SECOND
    _, pixels = _ask({"ask": "overview", "path": path, "level": level, "scale": scale}, seconds)
    assert pixels is not None
    return pixels


def coordinates(path: str, names: tuple[str, ...]) -> tuple[Int64, dict[str, float]]:
    """(n, 2) x and y of an HDF5 file's `coords`, and its attributes that are finite numbers. Raises PixelError."""
    answer, data = _ask({"ask": "coordinates", "path": path, "names": names, "most": MOST_COORDINATES}, CPU_SECONDS)
    assert data is not None
    return data.view(np.int64).reshape(-1, 2), answer["attributes"]


def _ask(request: dict[str, Any], seconds: int) -> tuple[dict[str, Any], UInt8 | None]:
    """The answer of a child, and the array in it. Raises PixelError."""
    _require_reader_once()
    deadline = time.monotonic() + WALL_FACTOR * seconds
    child = _holding(request | {"cpu_seconds": seconds}, deadline)
    try:
        answer, nbytes = child.answer(deadline)
        pixels = child.pixels(answer["shape"], nbytes, deadline) if "shape" in answer else None
        child.busy, child.holds = False, request["path"]
    finally:
        _pool.give_back(child)
    return answer, pixels


def _holding(request: dict[str, Any], deadline: float) -> ChildProcess:
    """A process that has received the request; one that was killed while idle is replaced."""
    while True:
        child, fresh = _pool.take(lambda idle: idle.holds == request["path"])
        child.busy = True
        try:
            child.send(request)
            child.answer(deadline)
        except PixelError:
            if fresh:
                raise
            continue
        except BaseException:
            child.kill()
            raise
        return child
