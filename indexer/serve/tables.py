"""The tables of a server: each is opened once, and kept with its search state."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from indexer.errors import RowNotFound, StoreNotFound
from indexer.malloc import release_freed_memory
from indexer.mapping.files import map_path, read_map
from indexer.search.reference import PairCosines, pair_cosines, sampled_ids
from indexer.search.searcher import Searcher
from indexer.search.snapshot import Snapshot
from indexer.serve.http.facets import Facet, facets
from indexer.serve.kept import Kept
from indexer.serve.map.shown import ShownMap
from indexer.serve.settings import Settings
from indexer.store.names import table_names
from indexer.store.table import EmbeddingStore
from indexer.types import EncoderSpec, Int64

SAMPLED = 100  # rows of which a page begins with some
MOST_LISTS = 3  # of near-duplicate pairs, each of some 50 MB at most


class ServedTable:
    """A table with its searcher, and what is computed once for a version. Thread-safe.

    A request takes one `searcher.snapshot` and passes it on, so that all of its answer is of one version.
    """

    def __init__(self, store: EmbeddingStore, load_encoder: Callable[[EncoderSpec], Any]) -> None:
        self.store = store
        self.searcher = Searcher(store, load_encoder=load_encoder)
        self._kept = Kept()
        self.lists = Kept(MOST_LISTS)
        self._map_lock = threading.Lock()
        self._map: tuple[tuple[str, int, int], ShownMap] | None = None

    def warm(self) -> int:
        """Loads the index and computes what the search page begins with; returns the table's version."""
        snapshot = self.searcher.snapshot
        self.pairs(snapshot)
        self.facets(snapshot.view, None)
        self.sampled_ids(snapshot, 1)
        return snapshot.version

    def pairs(self, snapshot: Snapshot) -> PairCosines:
        """Cosines of random pairs in this version."""

        def make() -> PairCosines:
            made = pair_cosines(snapshot)
            release_freed_memory()  # of a million products, and of loading the index
            return made

        found: PairCosines = self._kept.of(snapshot.commit, "cosines", make)
        return found

    def url(self, view: EmbeddingStore, shard: str) -> str | None:
        """The address of a shard of this version; None where the ledger lacks it."""
        known: dict[str, str] = self._kept.of(view.state.commit, "urls", view.urls)
        if shard not in known:  # a writer names a shard in its ledger after it committed its rows
            known.update(view.urls())
        return known.get(shard)

    def sampled_ids(self, snapshot: Snapshot, most: int) -> Int64:
        """Ids of up to `most` random rows of this version, SAMPLED at most."""
        found: Int64 = self._kept.of(snapshot.commit, "sample", lambda: sampled_ids(snapshot, SAMPLED))
        chosen = np.random.default_rng(0).permutation(len(found))[:most]
        return found[np.sort(chosen)]

    def facets(self, view: EmbeddingStore, where: str | None) -> tuple[int, list[Facet]]:
        """The rows of this version under a filter, and the counts of their values. Raises BadFilter."""

        def make() -> tuple[int, list[Facet]]:
            return view.count(where), facets(view, where)

        found: tuple[int, list[Facet]] = self._kept.of(view.state.commit, ("facets", where), make)
        return found

    def shown_map(self, view: EmbeddingStore) -> ShownMap:
        """The map on disk, with the rows of this version. Raises RowNotFound, IndexFileError, StoreError."""
        with self._map_lock:
            try:
                stat = map_path(view).stat()
            except FileNotFoundError:
                raise RowNotFound(f"table {view.name} has no map. Make one with `indexer map`.") from None
            stamp = (view.state.commit, stat.st_ino, stat.st_mtime_ns)
            if self._map is None or self._map[0] != stamp:
                made = read_map(view)
                if made is None:
                    raise RowNotFound(f"table {view.name} has no map. Make one with `indexer map`.")
                self._map = (stamp, ShownMap(view, made))
            return self._map[1]

    @property
    def has_text(self) -> bool:
        """Whether the encoder embeds words, as far as is known without loading it."""
        return embeds_text(self.store.spec.name)


def embeds_text(name: str) -> bool:
    """Whether encoders of this name have a text tower; those of open_clip, of any source, do."""
    from indexer.encoders.families.catalogue import ENTRIES

    listed = [entry.text for entry in ENTRIES if name in (entry.alias, entry.name)]
    return listed[0] if listed else name.startswith(("open_clip:", "hf-hub:", "local-dir:"))


class Tables:
    """The tables that a server shows, by name. Thread-safe."""

    def __init__(self, settings: Settings, load_encoder: Callable[[EncoderSpec], Any] | None = None) -> None:
        """Raises StoreNotFound where there is none."""
        self._settings = settings
        self._load_encoder = load_encoder or self._load
        self._open: dict[str, ServedTable] = {}
        self._lock = threading.Lock()
        if not self.names():
            raise StoreNotFound(f"{settings.database} holds no table. `indexer index` makes one.")

    @property
    def writable(self) -> bool:
        """Whether labels may be written."""
        return self._settings.labels is not None

    def names(self) -> list[str]:
        """Raises StoreNotFound where the one table of the settings is gone."""
        found = table_names(self._settings.database)
        only = self._settings.table
        if only is None:
            return found
        if only not in found:
            held = ", ".join(found) or "none"
            raise StoreNotFound(
                f"no table {only} in {self._settings.database}; it holds: {held}. Name one with --table."
            )
        return [only]

    def get(self, name: str) -> ServedTable:
        """Raises StoreNotFound for a table that is not served."""
        if name not in self.names():
            raise StoreNotFound(f"no table of that name is served; there are: {', '.join(self.names())}.")
        with self._lock:
            if name not in self._open:
                store = EmbeddingStore.open(self._settings.database, name)
                self._open[name] = ServedTable(store, self._load_encoder)
            return self._open[name]

    def opened_again(self, name: str) -> EmbeddingStore:
        """A store of its own, for a check that moves it to the newest version."""
        return EmbeddingStore.open(self._settings.database, self.get(name).store.name)

    def _load(self, spec: EncoderSpec) -> Any:
        from indexer.encoders import load_spec

        return load_spec(spec, weights=self._settings.weights, device=self._settings.device)
