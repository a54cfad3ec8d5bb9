"""PendingSink: keeps a part's results as pending files beside the table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import numpy as np

from indexer.errors import PendingDamaged
from indexer.pipeline.commit import Totals
from indexer.pipeline.parts.commit import state_of
from indexer.store.lance_errors import writing
from indexer.store.pending.form import PendingFile, opened
from indexer.store.pending.place import PendingPlace
from indexer.store.table import EmbeddingStore
from indexer.store.writing.keys import Digests, SamplesOfShard, digests_of
from indexer.store.writing.side_tables import LedgerEntry
from indexer.types import Failure, Shard, ShardResult


class PendingSink:
    """Implements `drive.Sink`: each shard becomes a pending file once its last part is there.

    A part of a large shard is also kept as a piece of its own, so that a run that is killed goes on behind it.
    """

    def __init__(
        self,
        store: EmbeddingStore,
        place: PendingPlace,
        names: Mapping[str, str],
        entries: Mapping[str, LedgerEntry],
        files: Mapping[str, Mapping[str, bytes]],
    ) -> None:
        """`names` of the pending files, by the shard's name; `entries` of the ledger when the plan was made; `files`
        that belong to the run, by shard and their names.
        """
        self.totals = Totals()
        self.kept = 0  # shards
        self._store, self._place, self._names, self._entries = store, place, names, entries
        self._files = files
        self._open: dict[str, PendingFile] = {}
        self._told: defaultdict[str, set[Failure]] = defaultdict(set)  # failures of pieces
        self._former: dict[str, int] = {}  # rows of pieces
        self._number: defaultdict[str, int] = defaultdict(int)  # of the next piece
        self._pieces: defaultdict[str, list[str]] = defaultdict(list)
        for piece in place.pieces():
            self._pieces[piece.partition(".")[0]].append(piece)

    def __enter__(self) -> PendingSink:
        return self

    def __exit__(self, *error: object) -> None:
        """Shards that are not complete leave nothing behind."""
        for file in self._open.values():
            file.discard()

    def received(self, shard: Shard) -> SamplesOfShard | None:
        """Take over the pieces of a shard that a run before has made; the samples in them. A damaged one is ignored."""
        found: list[Digests] = []
        for piece in self._pieces[self._names[shard.name]]:
            number = int(piece.rpartition(".")[2])
            self._number[shard.name] = max(self._number[shard.name], number + 1)
            with suppress(PendingDamaged, FileNotFoundError), self._place.file(piece) as path:
                pending = opened(path, piece)
                if pending.result.shard.identity != shard.identity or not self._is_ours(pending.table):
                    continue
                parts = list(pending.parts(path, 1 << 62))
                own = np.concatenate([_digests(part) for part in parts])
                if found and np.isin(own, np.concatenate(found)).any():
                    continue  # of another process, which has cut the shard elsewhere
                found.append(own)
                for part in parts:
                    self._file(shard.name).add(part)
                    self._told[shard.name].update(part.failures)
        if not found:
            return None
        self._former[shard.name] = self._file(shard.name).rows
        return SamplesOfShard(np.sort(np.concatenate(found)), shard.name)

    def add(self, result: ShardResult) -> None:
        name = result.shard.name
        new = tuple(failure for failure in result.failures if failure not in self._told[name])
        result = replace(result, failures=new)
        with writing(self._place.where):
            self._file(name).add(result)
        if result.more:
            piece = PendingFile(self._place.begin(), self._store.dim)
            with writing(self._place.where):
                piece.add(result)
            self._publish(piece, result, f"{self._names[name]}.{self._number[name]:06d}")
            self._number[name] += 1
            return
        file = self._open.pop(name)
        self._publish(file, result, self._names[name])
        for number in range(self._number[name]):
            with suppress(FileNotFoundError):
                self._place.remove(f"{self._names[name]}.{number:06d}")
        self._count(result, file)

    def _file(self, name: str) -> PendingFile:
        if name not in self._open:
            self._open[name] = PendingFile(self._place.begin(), self._store.dim)
        return self._open[name]

    def _is_ours(self, table: str) -> bool:
        return table == self._store.state.identity

    def _publish(self, file: PendingFile, result: ShardResult, name: str) -> None:
        store, shard = self._store, result.shard.name
        with writing(self._place.where):
            file.finish(
                result,
                table=store.state.identity,
                fingerprint=store.spec.fingerprint,
                before=state_of(self._entries.get(shard)),
                files={} if result.more else self._files.get(shard, {}),
            )
        self._place.publish(file.path, name)

    @property
    def due(self) -> bool:
        return False

    @property
    def late(self) -> bool:
        return False

    def commit(self) -> None:
        """Nothing is held back: a shard is on the disk once it is complete."""

    def end(self) -> None:
        """Nothing is left to do."""

    def _count(self, result: ShardResult, file: PendingFile) -> None:
        totals = self.totals
        totals.embedded += file.rows - self._former.get(result.shard.name, 0)
        totals.reused += file.reused
        totals.adopted += result.adopted
        totals.reasons.update(f.reason for f in file.failures if f not in self._told[result.shard.name])
        totals.done += not result.partial
        totals.partial += result.partial
        if not result.samples and not result.partial:
            totals.empty.append(result.shard.name)
        self.kept += 1


def _digests(part: ShardResult) -> Digests:
    """Of the samples of a part, with those that failed: they are not tried again."""
    name = part.shard.name
    places = [(name, row.place.member, row.place.offset) for batch in part.batches for row in batch.rows]
    return digests_of([*places, *((name, f.member, f.offset) for f in part.failures if f.offset >= 0)])
