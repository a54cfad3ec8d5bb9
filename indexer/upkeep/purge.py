"""Dropping all that a table keeps of the past: deleted rows, old versions, tags of old indexes."""

from __future__ import annotations

from indexer.ann.manifest import read_manifest
from indexer.groups.make import pool
from indexer.search.index_build import TAG, refresh_index
from indexer.search.indexes.place import index_place
from indexer.store.pooled import pooled_of, purge_pooled
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter


def purge_versions(store: EmbeddingStore) -> None:
    """Rewrite the table without its deleted rows, bind index and pooled vectors to what is then the newest version,
    and drop the others.

    Raises StoreLocked, and IndexFileError where the index is damaged.
    """
    with StoreWriter(store) as writer:
        writer.purge()  # the index may still hold an older version
    place = index_place(store)
    place.fetch()
    current = read_manifest(place.directory)
    if current is not None:
        current = refresh_index(store).manifest
    for tag in store.tags():
        if tag.startswith(TAG) and (current is None or tag != current.tag):
            store.untag(tag)
    for by, method in pooled_of(store):
        pool(store, by, method)
        purge_pooled(store, by, method)
    with StoreWriter(store) as writer:
        writer.purge()
