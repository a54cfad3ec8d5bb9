"""Merges fragments of a table and its side tables, and drops their old versions, while the writer holds the lock."""

from __future__ import annotations

import time

from indexer.store.lance_errors import writing
from indexer.store.writing import compaction
from indexer.store.writing.recovery import Tables


class Compactor:
    """Of one writer: it remembers when it last dropped old versions."""

    def __init__(self, tables: Tables) -> None:
        self._tables, self._cleaned = tables, float("-inf")

    def merge(self, most: int | None, *, purge: bool = False) -> None:
        """Merge where a table has more than `most` small fragments (None: any), and drop old versions periodically."""
        store = self._tables.store
        tables = {"lance": store._dataset, "shards.lance": self._tables.ledger.dataset}
        tables["failures.lance"] = self._tables.failures.dataset
        clean = most is None or time.monotonic() - self._cleaned > compaction.CLEAN_SECONDS
        for kind, dataset in tables.items():
            with writing(f"table {store.name}, whose fragments were to be merged,"):
                merged = (
                    compaction.compact_all(dataset, purge=purge)
                    if most is None
                    else compaction.compact_newest(dataset, most)
                )
            if merged:
                self._tables.sync(kind)  # the merged files must be on the disk before the original ones are deleted
            if most is None or (merged and clean):
                with writing(f"table {store.name}, whose old versions were to be dropped,"):
                    compaction.clean_up(dataset, purge=purge)
                self._cleaned = time.monotonic()
        store.refresh()
