"""Numbered lists of names in a temporary file, so that memory does not grow with the archive."""

from __future__ import annotations

import os
import tempfile
import weakref
import zlib
from array import array
from collections import defaultdict
from collections.abc import Iterator

BLOCK = 128  # names compressed together; a list's last, unfinished block is held in memory


class Spool:
    """Append-only lists, read by any thread. The file is deleted with the object or the process.

    100 M names take about 1.5 GB of the temporary folder (TMPDIR) and 16 bytes of memory for each 128 names.
    """

    def __init__(self) -> None:
        self._file: int | None = None  # opened on first use
        self._end = 0
        self._places: defaultdict[int, array[int]] = defaultdict(lambda: array("Q"))  # offset, bytes, offset, bytes, …
        self._open: defaultdict[int, list[bytes]] = defaultdict(list)

    def append(self, number: int, name: str) -> None:
        """Append a name, which must not contain NUL, to a list."""
        block = self._open[number]
        block.append(os.fsencode(name))
        if len(block) == BLOCK:
            data = zlib.compress(b"\0".join(block), 1)
            os.pwrite(self._descriptor(), data, self._end)
            self._places[number].extend((self._end, len(data)))
            self._end += len(data)
            block.clear()

    def read(self, number: int) -> Iterator[str]:
        """The names of a list, in the order of appending."""
        places = self._places.get(number, array("Q"))
        for offset, nbytes in zip(places[::2], places[1::2], strict=True):
            block = zlib.decompress(os.pread(self._descriptor(), nbytes, offset))
            yield from map(os.fsdecode, block.split(b"\0"))
        yield from map(os.fsdecode, self._open.get(number, ()))

    def _descriptor(self) -> int:
        if self._file is None:
            with tempfile.TemporaryFile() as file:  # unlinked: nothing is left on the disk after a kill
                self._file = os.dup(file.fileno())
            weakref.finalize(self, os.close, self._file)
        return self._file
