"""The vectors of one table version as memory-mapped files beside the index, from which candidates are re-ranked.

Reading 100 rows from Lance takes more than a millisecond, from a mapped file some microseconds. Opening the files
takes the same memory for any number of rows.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from indexer.ann.exact import ROUNDING, Block, Resident, slack_of
from indexer.errors import IndexFileError
from indexer.types import Float16, Int64

COPY_ROWS = 65_536

FEW_KEYS = 64  # up to so many keys for each chunk of the file are read one by one

KeyedBlock = tuple[Int64, Float16, Any]  # row ids (m,), vectors (m, dim), keys as an Arrow string array


FREE_BITMAP = 64 << 20  # bytes of a bitmap of row ids, whatever the number of rows


@dataclass(frozen=True)
class VectorPaths:
    """Paths of the three parallel files of one generation."""

    vectors: Path  # raw float16 rows (n, dim)
    row_ids: Path  # raw int64 (n,)
    keys: Path  # Arrow IPC file, one string column


class Rows:
    """Vectors (n, dim) float16 with their row ids (n,), and the lookup of positions by id."""

    def __init__(self, row_ids: Int64, vectors: Float16, slack: float | None = None) -> None:
        self.row_ids, self.vectors = row_ids, vectors
        self.slack = slack  # upper bound on the difference of a row's length from 1; None where unknown

    def __len__(self) -> int:
        return len(self.row_ids)

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def take(self, positions: Int64) -> Float16:
        """The vectors at these positions (p,), copied."""
        return self.vectors.take(positions, axis=0)

    def scan(self, step: int = COPY_ROWS) -> Iterator[Block]:
        """All rows, `step` at a time: row ids and vectors, which the caller must not keep."""
        for start in range(0, len(self), step):
            yield self.row_ids[start : start + step], self.vectors[start : start + step]

    def positions(self, row_ids: Int64) -> Int64:
        """Positions of these ids (any shape); -1 for an id that is not among the rows."""
        if not len(self):
            return np.full(row_ids.shape, -1, np.int64)
        if self._first is not None:
            spots = row_ids - self._first
            if spots.min(initial=0) >= 0 and spots.max(initial=0) < len(self):
                return spots
            return np.where((spots >= 0) & (spots < len(self)), spots, -1)
        spots = np.minimum(np.searchsorted(self.row_ids, row_ids, sorter=self._order), len(self) - 1)
        at = spots if self._order is None else self._order[spots]
        return np.where(self.row_ids[at] == row_ids, at, -1).astype(np.int64)

    @cached_property
    def _first(self) -> int | None:
        """The first id where the ids follow one another, as in a table that lost no rows; else None."""
        first, last = int(self.row_ids[0]), int(self.row_ids[-1])
        return first if self._order is None and last - first == len(self) - 1 else None

    @cached_property
    def _order(self) -> Int64 | None:
        """The sorting permutation of the ids; None where they ascend, as usual, which saves its memory."""
        for start in range(0, len(self), COPY_ROWS):
            if not (np.diff(self.row_ids[start : start + COPY_ROWS + 1]) > 0).all():
                return np.argsort(self.row_ids)
        return None


_KEYS = pa.schema([pa.field("key", pa.large_string())])


class KeyedRows(Rows, ABC):
    """Rows with the key of each."""

    @abstractmethod
    def keys(self, positions: Int64) -> list[str]:
        """Keys of the rows at these positions (p,), in order."""

    def blocks(self, positions: Int64 | None = None, step: int = COPY_ROWS) -> Iterator[KeyedBlock]:
        """All rows, or those at the positions, `step` at a time."""
        for start in range(0, len(self) if positions is None else len(positions), step):
            stop = start + step
            part = np.arange(start, min(stop, len(self))) if positions is None else positions[start:stop]
            yield self.row_ids[part], self.vectors[part], pa.array(self.keys(part), pa.large_string())


class HeldRows(KeyedRows):
    """Keyed rows in memory."""

    def __init__(self, row_ids: Int64, vectors: Float16, keys: Any) -> None:
        self.resident = Resident(row_ids, vectors)
        super().__init__(row_ids, self.resident.vectors, self.resident.slack)  # one copy of the vectors, not two
        self._keys = keys  # Arrow string array

    def keys(self, positions: Int64) -> list[str]:
        # Of a list, since pyarrow imports numpy.ma (0.1 s) to take an array
        found: list[str] = self._keys.take(pa.array(positions.tolist(), pa.int64())).to_pylist()
        return found


class VectorFile(KeyedRows):
    """Rows of one table version, mapped read-only, with their keys.

    Pages that were read stay in memory for later searches, unless `keep_within` was called.
    """

    def __init__(self, paths: VectorPaths, dim: int, slack: float | None = ROUNDING) -> None:
        row_ids: Int64 = _mapped(paths.row_ids, np.int64)[0]
        self._number = os.open(paths.vectors, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._number)
        vectors, self._map = _mapped(paths.vectors, np.float16)
        super().__init__(row_ids, vectors.reshape(-1, dim), slack)
        self._limit: int | None = None  # bytes of pages to keep; None where all may stay
        self._scanned = 0  # bytes of pages mapped since they were given back
        self._path = paths.keys
        try:
            with pa.memory_map(str(paths.keys)) as source:
                reader = pa.ipc.open_file(source)
                if reader.schema != _KEYS:
                    raise self._damaged(f"its columns are {', '.join(reader.schema.names)[:80]}, not keys")
                self._chunks = [reader.get_batch(i).column(0) for i in range(reader.num_record_batches)]
        except pa.ArrowException as error:
            raise self._damaged(error) from error
        self._starts = list(accumulate(map(len, self._chunks), initial=0))
        self._texts: dict[int, tuple[memoryview, memoryview]] = {}  # of the chunks that were checked
        if self._starts[-1] != len(row_ids):
            raise IndexFileError(f"{paths.keys} holds {self._starts[-1]} keys for {len(row_ids)} rows.")

    def keep_within(self, memory_bytes: int) -> None:
        """Where the vectors are larger than half of the memory: single rows are read, not mapped, since the kernel maps
        up to 2 MiB around each, and the pages of a scan are given back before they take a quarter of it.
        """
        self._limit = memory_bytes // 4 if self.vectors.nbytes > memory_bytes // 2 else None
        self._give_back()

    def take(self, positions: Int64) -> Float16:
        if self._limit is None:
            return super().take(positions)
        taken = np.empty((len(positions), self.dim), np.float16)
        width = 2 * self.dim
        for row, position in zip(taken, positions.tolist(), strict=True):
            if os.preadv(self._number, [row.data], position * width) != width:
                raise IndexFileError(f"{self._path.parent} was cut while it was in use. Build the index again.")
        return taken

    def scan(self, step: int = COPY_ROWS) -> Iterator[Block]:
        for block in super().scan(step):
            yield block
            self._scanned += block[1].nbytes  # threads may lose a count, and then map a block more
            self._give_back()

    def _give_back(self) -> None:
        if self._limit is not None and self._map is not None and self._scanned > self._limit:
            self._map.madvise(mmap.MADV_DONTNEED)
            self._scanned = 0

    def sound_ids(self, step: int) -> Iterator[Int64]:
        """The row ids, `step` at a time. Raises IndexFileError for a negative one, and for one whose bitmap would take
        more memory than the vectors: ids are dense, and a hostile file must not ask for terabytes.
        """
        most = 8 * (FREE_BITMAP + self.vectors.nbytes)
        for start in range(0, len(self.row_ids), step):
            ids = self.row_ids[start : start + step]
            if ids.min() < 0 or ids.max() >= most:
                raise IndexFileError(
                    f"{self._path.parent} names rows that no table of its size has: it was not written by a build. "
                    "Build the index again with `indexer build-ann`."
                )
            yield ids

    def keys(self, positions: Int64) -> list[str]:
        if len(positions) > FEW_KEYS * len(self._chunks):
            return self._many_keys(positions)
        keys, first, texts = [], self._starts, self._texts
        for position in positions.tolist():
            chunk = bisect_right(first, position) - 1
            starts, text = texts.get(chunk) or self._text(chunk)
            spot = position - first[chunk]
            keys.append(str(text[starts[spot] : starts[spot + 1]], "utf-8"))
        return keys

    def _many_keys(self, positions: Int64) -> list[str]:
        chunks = np.searchsorted(self._starts, positions, side="right") - 1
        out: list[str] = [""] * len(positions)
        for chunk in np.unique(chunks).tolist():
            if chunk not in self._texts:
                self._text(chunk)  # for its checks
            mine = np.flatnonzero(chunks == chunk)
            found = self._chunks[chunk].take(pa.array(positions[mine] - self._starts[chunk]))
            for spot, key in zip(mine.tolist(), found.to_pylist(), strict=True):
                out[spot] = key
        return out

    def _text(self, number: int) -> tuple[memoryview, memoryview]:
        """Where each key of a chunk begins, and the chunk's keys in one text, both checked: single keys are read from
        these in a fifth of the time that Arrow's own values take.
        """
        chunk = self._chunks[number]
        try:
            chunk.validate(full=True)  # offsets outside the file would crash the process
        except pa.ArrowException as error:
            raise self._damaged(error) from error
        if chunk.null_count:
            raise self._damaged("it has rows without a key")
        _, starts, text = chunk.buffers()
        numbers = memoryview(starts).cast("B").cast("q")[chunk.offset :]
        self._texts[number] = numbers, memoryview(text or b"")
        return self._texts[number]

    def _damaged(self, why: object) -> IndexFileError:
        return IndexFileError(
            f"{self._path} is damaged ({why}). Build the index again with `indexer build-ann`, or search without it "
            "(`indexer search --exact`)."
        )


def write_vectors(paths: VectorPaths, batches: Iterable[KeyedBlock]) -> float:
    """Stream the blocks into the files. Returns the largest difference of a row's length from 1."""
    slack = 0.0
    with (
        paths.vectors.open("wb") as vectors_out,
        paths.row_ids.open("wb") as ids_out,
        pa.OSFile(str(paths.keys), "wb") as keys_out,
        pa.ipc.new_file(keys_out, _KEYS) as keys_writer,
    ):
        for row_ids, vectors, keys in batches:
            ids_out.write(np.ascontiguousarray(row_ids, np.int64).data)  # tofile hides the operating system's error
            vectors_out.write(np.ascontiguousarray(vectors, np.float16).data)
            keys_writer.write_batch(pa.record_batch([keys.cast(pa.large_string())], schema=_KEYS))
            slack = max(slack, slack_of(vectors))
    return slack


def gathered(blocks: Iterable[KeyedBlock], dim: int, memory_bytes: int) -> KeyedRows:
    """The blocks' rows: in memory where they fit, else mapped from an unlinked temporary file."""
    ids, vectors, keys = [np.empty(0, np.int64)], [np.empty((0, dim), np.float16)], [pa.array([], pa.large_string())]
    nbytes, rest = 0, iter(blocks)
    for block in rest:
        nbytes += block[0].nbytes + block[1].nbytes + block[2].nbytes
        ids.append(block[0])
        vectors.append(block[1])
        keys.append(block[2].cast(pa.large_string()))
        if nbytes > memory_bytes:
            break
    else:
        return HeldRows(np.concatenate(ids), np.concatenate(vectors), pa.concat_arrays(keys))
    with tempfile.TemporaryDirectory(prefix="newer-rows-") as folder:
        paths = VectorPaths(*(Path(folder) / name for name in ("vectors", "row_ids", "keys")))
        held = zip(ids, vectors, keys, strict=True)
        slack = write_vectors(paths, (block for part in (held, rest) for block in part))
        return VectorFile(paths, dim, slack)  # mapped and unlinked: the disk space is freed with the last map


def _mapped(path: Path, kind: type) -> tuple[Any, mmap.mmap | None]:
    """A file's numbers as a read-only array, and its map; None where it is empty."""
    if not path.stat().st_size:
        return np.empty(0, kind), None
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(pages, kind), pages
