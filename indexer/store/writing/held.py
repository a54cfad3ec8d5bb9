"""Images that the table has under another shard: they are found by key and bytes, and not embedded again."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.errors import PixelError
from indexer.store.table import EmbeddingStore
from indexer.store.writing.keys import Digests, TableKeys, digests_of, spots_of
from indexer.types import Sample, sample_key

_BATCH_ROWS = 65_536


class HeldElsewhere:
    """Implements `pipeline.in_flight.Held` for one run. Thread-safe.

    A key that no row has is answered from the writer's own set of keys. Once a key is found there, the digests of
    (key, content) of all rows are read, 16 bytes a row. Rows of the run's own shards count for nothing: they may be
    about to be replaced, and the same key twice in one shard is a failure.
    """

    def __init__(self, store: EmbeddingStore, keys: TableKeys, own: Collection[str]) -> None:
        """`own`: names of the shards that the run works through."""
        self._store, self._keys = store, keys
        self._own = pa.array(sorted(own), pa.string())
        self._digests: Digests | None = None
        self._lock = threading.Lock()

    def __call__(self, sample: Sample) -> bool:
        """Whether a row of another shard has this sample's key and bytes: any part of the image will do."""
        with self._lock:
            if self._digests is None:
                if not self._keys.may_have(sample.key):
                    return False  # also where only later parts have rows: the commit adopts those
                self._digests = self._read()
        try:
            content = hashlib.sha256(sample.read()).hexdigest()
        except PixelError:
            return False  # decoding it reports the failure
        asked = digests_of([(sample.key, content)])
        return bool(len(spots_of(self._digests, asked)[0]))

    def _read(self) -> Digests:
        view = self._store.at(self._store.version)
        digests, done = np.zeros(view.count(), "S16"), 0
        for batch in view.scan(["key", "part", "content", "shard"], batch_rows=_BATCH_ROWS):
            others = batch.filter(pc.invert(pc.is_in(batch.column("shard"), value_set=self._own)))
            columns = (others.column(name).to_pylist() for name in ("key", "part", "content"))
            own = digests_of((sample_key(k, part), content) for k, part, content in zip(*columns, strict=True))
            digests[done : done + len(own)] = own
            done += len(own)
        found = digests[:done]
        found.sort()
        return found
