"""rabitqlib's inverted lists of 1-bit RaBitQ codes (Gao and Long 2024), an extra: candidates as FAISS's RaBitQ FastScan
finds them in a third of the time (measured at 200,000 × 512: .28 ms for .80 at equal recall before re-ranking).

It numbers its entries itself, from 0 in the order of their addition, and has neither filters nor memory maps. The file
is rabitqlib's own, followed by the row id of each entry, the centroids, and a footer. Its random rotation has no seed:
two builds from the same rows differ in the codes, and with them in which of the far candidates they propose.
"""

from __future__ import annotations

import json
import struct
import subprocess  # runs this interpreter with a module of this package, never a shell
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import faiss
import numpy as np

from indexer.ann.engines.protocol import DEPTHS, FloatBlock, Neighbours, Trained
from indexer.ann.engines.routing import list_widths
from indexer.ann.exact import FEW_QUERIES
from indexer.ann.manifest import WAY_OUT
from indexer.ann.rowset import RowSet
from indexer.children import environment, python_command
from indexer.cores import cores
from indexer.errors import IndexFileError
from indexer.memory.huge_pages import Ranges, collapse, grown
from indexer.types import Float32, Float64, Int64, UInt8

BITS = 1  # of a code; with 4 bits a query takes 1.6 times as long, which costs more than re-ranking more candidates
LEAST_DIM = 64  # of its rotation; shorter vectors are filled up with zeros
MOST_FETCHED = 2_048  # candidates sought for a filter; its sorted list of them makes more slower than an exact scan
SPARE_SHARE = 1.5  # candidates sought for a filter, by those expected to pass it
GROWTH = 1.5  # of the room of a list that is full, so that adding in blocks copies each entry a few times only
FOOTER = struct.Struct("<8sQQQQ")  # magic, bytes of rabitqlib's part (0: no entries), entries, lists, dim
MAGIC = b"IXRABITQ"
CHECK_SECONDS = 600.0
# Queries after which an index is put onto huge pages: at a million rows it takes as long as 200 queries, and is earned
# back by a thousand. A process that answers one key ends before.
SETTLED = 256


@dataclass
class RabitqIndex:
    """An index and the row id of each of its entries."""

    centroids: Float32  # (nlist, dim)
    row_ids: Int64  # (entries,); -1 where the entry was removed
    lists: Any = None  # rabitqlib's index; None while there are no entries, of which it must have one
    room: Int64 | None = None  # (nlist,) entries that fit each list without a copy; None where it was loaded
    counts: Int64 | None = None  # (nlist,) entries of each list
    memory: Ranges = field(default_factory=list)  # that the lists took, until it lies on huge pages
    asked: int = 0  # queries so far; a count lost between threads changes nothing

    @property
    def nlist(self) -> int:
        return len(self.centroids)

    @property
    def dim(self) -> int:
        return int(self.centroids.shape[1])

    def __len__(self) -> int:
        return int((self.row_ids >= 0).sum())

    @cached_property
    def quantizer(self) -> Any:
        """FAISS's index of the centroids."""
        flat = faiss.IndexFlatIP(self.dim)
        flat.add(self.centroids)
        return flat


@dataclass(frozen=True)
class RabitqLists:
    """A query searches the lists of the `width` nearest centroids."""

    name: ClassVar[str] = "ivf-rabitqlib"
    routed: ClassVar[bool] = True
    removes: ClassVar[bool] = True
    error: ClassVar[float | None] = None
    depths: ClassVar[tuple[int, ...]] = DEPTHS

    @property
    def missing(self) -> str:
        try:
            _library()
        except IndexFileError:
            return "pip install 'embedding-indexer[rabitq]'"
        return ""

    def factory(self, nlist: int) -> str:
        return f"rabitqlib IVF{nlist},{BITS}bit"

    def bytes_per_vector(self, dim: int) -> float:
        return max(dim, LEAST_DIM) * BITS / 8 + 28

    def build(self, dim: int, trained: Trained | None) -> Any:  # noqa: ARG002 - the centroids have it
        if trained is None:
            raise ValueError(f"{self.name} needs centroids")
        return RabitqIndex(np.ascontiguousarray(trained.centroids), np.empty(0, np.int64))

    def widths(self, index: Any, neighbours: Neighbours, target: float) -> list[int]:
        return list_widths(index, neighbours, target)

    def candidates(
        self, index: Any, queries: Float64, k: int, width: int, bitmap: UInt8 | None = None
    ) -> tuple[Float32, Int64]:
        """As of every engine; with a bitmap, none at all for a query of which too few of the MOST_FETCHED nearest
        entries are allowed: an exact scan is quicker there.
        """
        entries, there = len(index.row_ids), index.lists is not None and len(queries) > 0
        if there and bitmap is None and k <= entries:
            return _nearest(index, queries, k, width)
        scores, ids = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
        if not there:
            return scores, ids
        fetch = min(k, entries)
        if bitmap is None:
            scores[:, :fetch], ids[:, :fetch] = _nearest(index, queries, fetch, width)
            return scores, ids
        allowed = RowSet(bitmap)
        share = max(len(allowed), 1) / max(len(index), 1)
        fetch = min(int(SPARE_SHARE * k / share) + k, MOST_FETCHED, entries)
        while True:
            near, found = _nearest(index, queries, fetch, width)
            passed = allowed.has(found)
            enough = (passed.sum(1) >= k) | (found[:, -1] < 0) | (fetch == entries)
            if enough.all() or fetch >= MOST_FETCHED:
                break
            fetch = min(4 * fetch, MOST_FETCHED, entries)
        first = np.argsort(~passed, axis=1, kind="stable")[:, :k]
        kept = np.take_along_axis(passed, first, 1) & enough[:, None]
        m = first.shape[1]
        scores[:, :m] = np.where(kept, np.take_along_axis(near, first, 1), -np.inf)
        ids[:, :m] = np.where(kept, np.take_along_axis(found, first, 1), -1)
        return scores, ids

    def add(self, index: Any, blocks: Iterable[FloatBlock]) -> None:
        for row_ids, vectors in blocks:
            if not len(row_ids):
                continue
            lists = index.quantizer.assign(vectors, 1).reshape(-1)
            counts = np.bincount(lists, minlength=index.nlist)
            wide = filled_up(vectors)
            if index.lists is None:
                index.lists = _library().IvfIndex(
                    wide.shape[1], len(wide), index.nlist, BITS, metric="ip", initializer="flat"
                )
                index.lists.build(wide, filled_up(index.centroids), lists.astype(np.uint32), num_threads=cores())
                index.counts, index.room = counts, counts.copy()
            else:
                _make_room(index, counts)
                index.lists.add(wide, lists.astype(np.uint32), num_threads=cores())
            index.row_ids = np.concatenate([index.row_ids, row_ids])

    def remove(self, index: Any, row_ids: Int64) -> None:
        entries = np.flatnonzero(np.isin(index.row_ids, row_ids))
        if len(entries):
            index.lists.remove(entries.astype(np.uint32))
            index.row_ids = index.row_ids.copy()
            index.row_ids[entries] = -1

    def save(self, index: Any, path: Path) -> None:
        path.unlink(missing_ok=True)
        if index.lists is not None:
            try:
                index.lists.save(str(path))
            except RuntimeError as error:
                raise IndexFileError(f"{path} cannot be written ({error}). Fix the cause, build it again.") from error
        with path.open("ab") as file:
            head = file.tell()
            file.write(np.ascontiguousarray(index.row_ids).data)
            file.write(np.ascontiguousarray(index.centroids).data)
            file.write(FOOTER.pack(MAGIC, head, len(index.row_ids), index.nlist, index.dim))

    def prove(self, path: Path) -> None:
        """Load and search the file in a child process: it is native code that reads what may come from elsewhere."""
        command = python_command("indexer.ann.engines.rabitq_check", str(path))
        env = environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
        try:
            done = subprocess.run(command, env=env, capture_output=True, timeout=CHECK_SECONDS, check=False)
            cause = json.loads(done.stdout) if done.returncode == 0 else f"a trial load ended with {done.returncode}"
        except (subprocess.TimeoutExpired, ValueError) as error:
            cause = f"a trial load failed: {type(error).__name__}"
        if cause:
            raise IndexFileError(f"{path} cannot be loaded ({cause}). {WAY_OUT}")

    def load(self, path: Path, *, writable: bool = False) -> Any:  # noqa: ARG002 - it is in memory in any case
        try:
            return loaded(path)
        except (RuntimeError, ValueError, MemoryError) as error:
            cause = str(error).splitlines()[0][:120] if str(error) else "too little memory"
            raise IndexFileError(f"{path} cannot be loaded ({cause}). {WAY_OUT}") from error


def loaded(path: Path) -> RabitqIndex:
    """The index of a file. Raises IndexFileError without the package; ValueError, RuntimeError where it is damaged."""
    nbytes = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(nbytes - FOOTER.size, 0))
        tail = file.read()
        if len(tail) < FOOTER.size:
            raise ValueError("it is cut")
        magic, head, entries, nlist, dim = FOOTER.unpack(tail)
        if magic != MAGIC or not nlist or not dim or nbytes != head + 8 * entries + 4 * nlist * dim + FOOTER.size:
            raise ValueError("its sizes are not those that it names")
        file.seek(head)
        row_ids = np.frombuffer(file.read(8 * entries), np.int64)
        centroids = np.frombuffer(file.read(4 * nlist * dim), np.float32).reshape(nlist, dim)
    index = RabitqIndex(centroids, row_ids)
    if not head:
        if entries:
            raise ValueError(f"it names {entries:,} entries that it has not")
        return index
    with grown(index.memory):
        index.lists = _library().IvfIndex.load(str(path))
    there = index.lists
    found = (there.dim, there.num_clusters, there.nbits, there.metric, there.num_stored_points, there.num_points)
    expected = (max(dim, LEAST_DIM), nlist, BITS, "ip", entries, len(index))
    if found != expected:
        raise ValueError(f"it is {found}, not {expected}")
    return index


def filled_up(vectors: Float32) -> Float32:
    """The vectors with zeros to the least dimension, which changes no product."""
    short = LEAST_DIM - vectors.shape[1]
    return np.ascontiguousarray(vectors if short <= 0 else np.pad(vectors, ((0, 0), (0, short))))


def _nearest(index: RabitqIndex, queries: Float64, k: int, width: int) -> tuple[Float32, Int64]:
    """Scores and row ids (q, k), without a filter."""
    threads = cores() if len(queries) >= FEW_QUERIES else 1
    index.asked += len(queries)
    if index.memory and index.asked >= SETTLED:
        memory, index.memory = index.memory, []
        collapse(memory)
    wide = filled_up(queries.astype(np.float32))
    entries, distances = index.lists.search(wide, k, min(width, index.nlist), num_threads=threads)
    ids: Int64 = index.row_ids.take(entries, mode="clip")
    scores: Float32 = 1 - distances
    if entries.max(initial=0) >= len(index.row_ids) or ids.min(initial=0) < 0:
        missing = (entries >= len(index.row_ids)) | (ids < 0)  # fewer were found; removed
        scores[missing], ids[missing] = -np.inf, -1
    return scores, ids


def _make_room(index: RabitqIndex, more: Int64) -> None:
    """Reserve room for `more` (nlist,) entries of each list: an addition copies every list that has none."""
    if index.counts is None or index.room is None:
        return
    index.counts = index.counts + more
    for number in np.flatnonzero(index.counts > index.room).tolist():
        index.room[number] = int(GROWTH * index.counts[number])
        index.lists.reserve(number, index.room[number])


def _library() -> Any:
    try:
        import rabitqlib
    except ImportError as error:
        raise IndexFileError(
            f"this index needs {error.name or 'rabitqlib'}: pip install 'embedding-indexer[rabitq]'. Or build another "
            "with `indexer build-ann`, or search without it (`indexer search --exact`)."
        ) from error
    return rabitqlib
