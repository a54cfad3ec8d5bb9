"""Similarity search over one table: always its newest version, prefiltered, exact scores. Warm and thread-safe."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from indexer.ann.exact import Found
from indexer.ann.index import VectorIndex, load
from indexer.ann.manifest import NAME
from indexer.errors import IndexFileError, InputError, RowNotFound, StoreError
from indexer.search.exclude import key_rows, rows_by_content, rows_of_values, same_value_rows
from indexer.search.queries import QueryImage, image_vectors, unit
from indexer.search.snapshot import Snapshot, advance, first_snapshot, row_ids_of
from indexer.store.table import EmbeddingStore, is_remote, vector_block
from indexer.types import EncoderSpec, Float32, Hit, Int64

MEMORY_BYTES = 4 << 30  # of vectors held where there is no index; a larger table is streamed for each search


@dataclass(frozen=True)
class SearchOptions:
    """How to search; the same for every kind of query."""

    k: int = 10
    where: str | None = None  # SQL over the table's columns, applied before the search
    exclude_same: str | None = None  # column: rows with the query's own value (its patient) are not found
    min_score: float | None = None  # cosine
    offset: int = 0  # hits to skip, for paging
    columns: tuple[str, ...] = ()  # of the table, to return with each hit

    def __post_init__(self) -> None:
        if self.k < 1 or self.offset < 0:
            raise InputError(f"k must be at least 1 and offset at least 0, not {self.k} and {self.offset}.")


DEFAULT = SearchOptions()


class Searcher:
    """Each `by_…` takes many queries and returns a list of hits for each, best first."""

    def __init__(
        self,
        store: EmbeddingStore,
        *,
        exact: bool = False,
        memory_bytes: int = MEMORY_BYTES,
        load_encoder: Callable[[EncoderSpec], Any] | None = None,
    ) -> None:
        """`exact` leaves the index aside. `load_encoder` is called with the table's spec at the first image or text.

        The store is used for reading only, and follows new versions.
        """
        self._store, self._exact, self._memory = store, exact, memory_bytes
        self._load_encoder = load_encoder
        self._lock, self._encoder_lock = threading.Lock(), threading.Lock()
        self._snapshot: Snapshot | None = None
        self._stamp: tuple[int, ...] | None = None
        self._filters: dict[tuple[str, str], Int64] = {}
        self._encoder: Any = None

    @property
    def dim(self) -> int:
        return self._store.dim

    @property
    def snapshot(self) -> Snapshot:
        """The table's newest version, with the newest index; made when something has changed."""
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
        """With the index as it is on disk now, however often a builder replaces it meanwhile."""
        while True:
            stamp = self._index_stamp()
            try:
                index = self._load_index()
                self._store.refresh()  # after the index is read: a table older than its index has no way to it
                made = first_snapshot(self._store.at(self._store.version), index, self._memory)
            except (IndexFileError, StoreError):
                if self._index_stamp() == stamp:
                    raise
                continue  # a builder replaced it, and dropped its tag, while we were reading
            self._stamp = stamp
            return made

    def by_vector(
        self, vectors: Float32, options: SearchOptions = DEFAULT, own: Sequence[Any] | None = None
    ) -> list[list[Hit]]:
        """Search with raw or unit vectors (q, dim). Raises InputError.

        `exclude_same` needs `own`: each query's value in that column, None where it has none.
        """
        vectors = np.asarray(vectors)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise InputError(f"queries have shape {vectors.shape}, table {self._store.name} needs (q, {self.dim}).")
        if options.exclude_same is not None and own is None:
            raise InputError(
                "--exclude-same needs queries that are rows of the table (--key, or an image that was indexed). "
                "For others say it with --where."
            )
        snapshot = self.snapshot
        queries = unit(vectors, [f"row {i}" for i in range(len(vectors))])
        excluded = [_NONE] * len(queries)
        if options.exclude_same is not None and own is not None:
            excluded = rows_of_values(snapshot.view, options.exclude_same, own)
        return self._search(snapshot, queries, options, excluded)

    def by_key(self, keys: Sequence[str], options: SearchOptions = DEFAULT) -> list[list[Hit]]:
        """Neighbours of stored images; the image itself is not among its hits. Raises RowNotFound."""
        snapshot = self.snapshot
        row_ids = key_rows(snapshot.view, keys)
        _, rows = snapshot.view.take(row_ids, [], vectors=True)
        queries = np.concatenate(
            [vector_block(b) for b in rows.to_batches()] or [np.empty((0, self._store.dim), np.float16)]
        )
        excluded = [np.array([row_id]) for row_id in row_ids]
        if options.exclude_same is not None:
            excluded = same_value_rows(snapshot.view, options.exclude_same, excluded)
        return self._search(snapshot, unit(queries, keys), options, excluded)

    def by_image(self, images: Sequence[QueryImage], options: SearchOptions = DEFAULT) -> list[list[Hit]]:
        """Search with images, decoded and embedded as the table's were.

        `exclude_same` finds the image in the table by its bytes; InputError where it is not there.
        """
        queries = image_vectors(images, self.encoder)
        snapshot = self.snapshot
        excluded = [_NONE] * len(images)
        if options.exclude_same is not None:
            own = rows_by_content(snapshot.view, [image.content for image in images])
            for image, rows in zip(images, own, strict=True):
                if not len(rows):
                    raise InputError(
                        f"--exclude-same: {image.name} is not in table {self._store.name}, so its "
                        f"{options.exclude_same} is unknown. Say what to leave out with --where."
                    )
            excluded = same_value_rows(snapshot.view, options.exclude_same, own)
        return self._search(snapshot, queries, options, excluded)

    def by_text(self, texts: Sequence[str], options: SearchOptions = DEFAULT) -> list[list[Hit]]:
        """Search with text. Raises NoTextTower where the table's encoder embeds images only."""
        if options.exclude_same is not None:
            raise InputError("--exclude-same needs queries that are rows of the table; a text has no such column.")
        queries = unit(self.encoder.embed_text(list(texts)), [repr(text) for text in texts])
        return self._search(self.snapshot, queries, options, [_NONE] * len(texts))

    @property
    def encoder(self) -> Any:
        """The encoder that made this table, loaded once. Raises EncoderError, EncoderMismatch."""
        with self._encoder_lock:
            if self._encoder is None:
                encoder = (self._load_encoder or _load_default)(self._store.spec)
                self._store.require(encoder.spec)
                self._encoder = encoder
            return self._encoder

    def _search(
        self, snapshot: Snapshot, queries: Float32, options: SearchOptions, excluded: Sequence[Int64]
    ) -> list[list[Hit]]:
        if not len(queries):
            return []
        wanted = options.offset + options.k
        allowed = self._allowed(snapshot, options.where)
        # Fetching as many more as are left out finds just what a filter before the search would.
        widest = max(len(rows) for rows in excluded)
        scores, ids = snapshot.search(queries, wanted + widest, allowed)
        keep = ids >= 0
        for i, rows in enumerate(excluded):
            keep[i] &= ~np.isin(ids[i], rows)
        if options.min_score is not None:
            keep &= scores >= options.min_score
        ranked = [np.flatnonzero(row)[options.offset : wanted] for row in keep]
        return _hits(snapshot, (scores, ids), ranked, options)

    def _allowed(self, snapshot: Snapshot, where: str | None) -> Int64 | None:
        """Sorted ids of the rows a filter lets through; the last few filters of a version are remembered."""
        if where is None:
            return None
        name = (snapshot.commit, where)
        known = self._filters.get(name)
        if known is None:
            parts = [row_ids_of(batch) for batch in snapshot.view.scan([], where, batch_rows=65_536)]
            known = np.sort(np.concatenate(parts)) if parts else _NONE
            self._filters = {**dict(list(self._filters.items())[-7:]), name: known}
        return known

    def _load_index(self) -> VectorIndex | None:
        return None if self._exact or is_remote(self._store.uri) else load(self._store.index_directory)

    def _index_stamp(self) -> tuple[int, ...] | None:
        """Changes when a builder publishes another index."""
        if self._exact or is_remote(self._store.uri):
            return None
        try:
            stat = (self._store.index_directory / NAME).stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def _advanced(self, now: Snapshot, view: EmbeddingStore) -> Snapshot:
        try:
            return advance(now, view)
        except StoreError:  # the version we held was cleaned up; the index's own is kept by its tag
            return first_snapshot(view, now.index, self._memory)


def _load_default(spec: EncoderSpec) -> Any:
    from indexer.encoders import load_spec

    return load_spec(spec)


_NONE = np.empty(0, np.int64)


def _hits(snapshot: Snapshot, found: Found, ranked: Sequence[Int64], options: SearchOptions) -> list[list[Hit]]:
    scores, ids = found
    flat = np.concatenate([ids[i, spots] for i, spots in enumerate(ranked)])
    keys = snapshot.keys(flat)
    rows: list[dict[str, Any]] = [{} for _ in flat]
    if options.columns:
        mask, table = snapshot.view.take(flat, options.columns)
        if not mask.all():
            raise RowNotFound(f"a row found in version {snapshot.version} cannot be read: the table was damaged.")
        rows = table.drop_columns(["_rowid"]).to_pylist()
    out, at = list[list[Hit]](), 0
    for i, spots in enumerate(ranked):
        own = []
        for j, spot in enumerate(spots):
            score = float(np.clip(scores[i, spot], -1, 1))  # float16 rows may be longer than 1 by some 1e-5
            own.append(Hit(options.offset + j + 1, keys[at + j], score, int(flat[at + j]), rows[at + j]))
        out.append(own)
        at += len(spots)
    return out
