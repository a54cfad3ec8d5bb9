"""Arrays mapped to files of a temporary folder: a search of any table holds few bytes a row in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

CHUNK = 1 << 14  # rows of an array looked at together
VECTORS = 1 << 11  # rows of vectors
_ZEROS = 1 << 20  # bytes written at once


class Scratch:
    """Makes zeroed arrays in a folder. Raises OSError where the disk cannot hold one."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._numbers = folder, count()

    def zeros(self, shape: tuple[int, ...], kind: npt.DTypeLike) -> Any:
        """A writable array of this shape."""
        nbytes = int(np.prod(shape)) * np.dtype(kind).itemsize
        if not nbytes:
            return np.zeros(shape, kind)
        path = self._folder / str(next(self._numbers))
        with path.open("wb") as file:
            _allocate(file, nbytes)  # else a full disk would end the process at a later write
        # A memory map is an ndarray subclass; each slice of it takes microseconds longer than of a plain view.
        return np.memmap(path, kind, "r+", shape=shape).view(np.ndarray)


def _allocate(file: IO[bytes], nbytes: int) -> None:
    if hasattr(os, "posix_fallocate"):  # macOS has none
        os.posix_fallocate(file.fileno(), 0, nbytes)
        return
    for part in chunks(nbytes, _ZEROS):
        file.write(bytes(part.stop - part.start))


def chunks(n: int, rows: int = CHUNK) -> Iterator[slice]:
    """Slices of so many rows that cover n rows."""
    return (slice(start, min(start + rows, n)) for start in range(0, n, rows))
