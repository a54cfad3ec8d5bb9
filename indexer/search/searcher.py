"""State shared by the searches of one table: newest snapshot, encoder, results of recent filters. Thread-safe."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.ann.index import VectorIndex
from indexer.ann.rowset import RowSet
from indexer.errors import IndexFileError, StoreError
from indexer.search.answer import answer
from indexer.search.images import QueryImage
from indexer.search.indexes.place import index_place
from indexer.search.options import DEFAULT, SearchOptions
from indexer.search.queries import Query
from indexer.search.snapshot import Snapshot, advance, first_snapshot, row_ids_of
from indexer.store.table import EmbeddingStore
from indexer.types import EncoderSpec, Hit

MEMORY_BYTES = 4 << 30  # of vectors held in memory without an index; a larger table is streamed for each search
FILTERS = 8  # filter results kept
FILTER_ROWS = 16_384  # of a batch of a filtered scan: a million rows take 16 ms, with 65,536 rows 26


class Searcher:
    """Searches one table. Each `by_…` takes many queries and returns a list of hits for each, best first."""

    def __init__(
        self,
        store: EmbeddingStore,
        *,
        exact: bool = False,
        memory_bytes: int = MEMORY_BYTES,
        load_encoder: Callable[[EncoderSpec], Any] | None = None,
        rehash: bool = False,
    ) -> None:
        """`exact` ignores the index; `rehash` hashes the index files even where that was done before.

        `load_encoder` is called with the table's spec at the first image or text query. The store is only read, and
        is refreshed to new versions.
        """
        self._store, self._exact, self._memory = store, exact, memory_bytes
        self._place = index_place(store)
        self._load_encoder, self._rehash = load_encoder, rehash
        self._lock, self._encoder_lock = threading.Lock(), threading.Lock()
        self._snapshot: Snapshot | None = None
        self._stamp: object = None
        self._filters: dict[tuple[str, str], RowSet] = {}
        self._encoder: Any = None

    @property
    def dim(self) -> int:
        return self._store.dim

    @property
    def exact(self) -> bool:
        """Whether every row is looked at."""
        return self._exact

    @property
    def table(self) -> str:
        return self._store.name

    @property
    def snapshot(self) -> Snapshot:
        """The table's newest version with its newest index; made anew only where either changed."""
        with self._lock:
            self._store.refresh()
            stamp = self._index_stamp()
            now = self._snapshot
            if now is None or stamp != self._stamp:
                now = self._loaded()
            elif now.commit != self._store.state.commit:
                now = self._advanced(now, self._store.at(self._store.version))
            self._snapshot = now
            return now

    def _loaded(self) -> Snapshot:
        """A snapshot with the index now on disk; retried where a builder replaces the index meanwhile."""
        while True:
            stamp = self._index_stamp()
            try:
                index = self._load_index()
                self._store.refresh()  # after the index is read: a table version older than the index cannot use it
                made = first_snapshot(self._store.at(self._store.version), index, self._memory)
            except (IndexFileError, StoreError):
                if self._index_stamp() == stamp:
                    raise
                continue  # a builder replaced the index, and dropped its tag, during the read
            self._stamp = stamp
            return made

    def by_vector(
        self, vectors: npt.NDArray[Any], options: SearchOptions = DEFAULT, own: Sequence[Any] | None = None
    ) -> list[list[Hit]]:
        """Search with raw or unit vectors (q, dim). Raises InputError.

        `exclude_same` requires `own`: each query's value in that column, None where it has none.
        """
        values = None if own is None else tuple(own)
        return self._ask(Query(vectors=np.asarray(vectors), own=values), options)

    def by_key(self, keys: Sequence[str], options: SearchOptions = DEFAULT) -> list[list[Hit]]:
        """Neighbours of stored images, without the image itself. Raises RowNotFound."""
        return self._ask(Query(keys=tuple(keys)), options) if keys else []

    def by_image(self, images: Sequence[QueryImage], options: SearchOptions = DEFAULT) -> list[list[Hit]]:
        """Search with images, decoded and embedded as the table's were.

        `exclude_same` looks the image up in the table by its bytes. Raises InputError where it is not there.
        """
        return self._ask(Query(images=tuple(images)), options) if images else []

    def by_text(self, texts: Sequence[str], options: SearchOptions = DEFAULT) -> list[list[Hit]]:
        """Search with text. Raises NoTextTower where the table's encoder embeds images only."""
        return self._ask(Query(texts=tuple(texts)), options) if texts else []

    def _ask(self, query: Query, options: SearchOptions) -> list[list[Hit]]:
        return [found.hits for found in answer(self, query, options).queries]

    @property
    def encoder(self) -> Any:
        """The encoder that made this table, loaded once. Raises EncoderError, EncoderMismatch."""
        with self._encoder_lock:
            if self._encoder is None:
                encoder = (self._load_encoder or _load_default)(self._store.spec)
                self._store.require(encoder.spec)
                self._encoder = encoder
            return self._encoder

    def allowed(self, snapshot: Snapshot, where: str | None) -> RowSet | None:
        """Row ids that match a filter; the results of the last FILTERS filters of a version are cached."""
        if where is None:
            return None
        name = (snapshot.commit, where)
        known = self._filters.get(name)
        if known is None:
            known = RowSet.of(row_ids_of(batch) for batch in snapshot.view.scan([], where, batch_rows=FILTER_ROWS))
            self._filters = {**dict(list(self._filters.items())[1 - FILTERS :]), name: known}
        return known

    def _load_index(self) -> VectorIndex | None:
        return None if self._exact else self._place.load(whole=self._rehash)

    def _index_stamp(self) -> object:
        """A value that changes when a builder publishes another index."""
        return None if self._exact else self._place.stamp()

    def _advanced(self, now: Snapshot, view: EmbeddingStore) -> Snapshot:
        try:
            return advance(now, view)
        except StoreError:  # the held version was cleaned up; the index's version is kept by its tag
            return first_snapshot(view, now.index, self._memory)


def _load_default(spec: EncoderSpec) -> Any:
    from indexer.encoders import load_spec

    return load_spec(spec)
