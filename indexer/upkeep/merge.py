"""Joins tables of one encoder: the rows, failures and labels of other tables, each shard once; no image is read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from indexer.errors import InputError
from indexer.pipeline.parts.commit import without_deleted
from indexer.store.filters import quoted
from indexer.store.rows import PLACE_COLUMNS, place_of, vector_block
from indexer.store.schema import PART_COLUMN
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.store.writing.carried import CarriedLabels, label_columns
from indexer.store.writing.deleted import receipts
from indexer.store.writing.keys import Digests, ShardRows, row_digests
from indexer.store.writing.side_tables import BEGUN, LedgerEntry, entries_of
from indexer.types import EmbeddingBatch, EmbeddingRow, Failure, Progress, Shard, ShardResult

ROWS = 8192  # of a commit, and in memory


@dataclass
class MergeReport:
    """What a merge added to a table, from all tables that were named."""

    table: str
    shards: int = 0
    rows: int = 0
    failed: int = 0
    same: int = 0  # shards that the table had already, with the same content
    kept: list[str] = field(default_factory=list)  # shards whose content differs: the former was kept
    adopted: int = 0  # images that the table has under another shard, with the same key and bytes
    reasons: dict[str, int] = field(default_factory=dict)  # of the failures
    labelled: int = 0  # rows that brought labels along
    columns: list[str] = field(default_factory=list)  # that the table did not have
    notes: list[str] = field(default_factory=list)


def merge(
    writer: StoreWriter, others: Sequence[EmbeddingStore], progress: Progress, *, keep: bool = False
) -> MergeReport:
    """Add what the other tables have and this one lacks. A merge that was killed goes on where it was.

    A shard that both have counts once where its images are the same. `keep`: where they are not, this table's stay,
    or those of the first of `others` that has it.
    Raises EncoderMismatch, and InputError for tables that do not go together, before anything is written.
    """
    report = MergeReport(writer.store.name, notes=list(writer.notes))
    holders = {name: _Held(entry, writer.store) for name, entry in writer.entries.items()}
    plans: list[dict[str, tuple[LedgerEntry, bool]]] = []
    for number, other in enumerate(others):
        _require_fitting(writer.store, other)
        for earlier in (writer.store, *others[:number]):
            _require_one_type(earlier, other)
        plans.append(_plan(holders, other, report, keep=keep))
        holders |= {name: _Held(entry, other) for name, (entry, _) in plans[-1].items()}
    for other, todo in zip(others, plans, strict=True):
        added = writer.add_columns(_new_columns(writer.store, other)) if todo else []
        report.columns += [name for name in added if name not in report.columns]
        if any(True for _ in receipts(other)):
            report.notes.append(
                f"{other.uri} has receipts of deleted images: a later `indexer index` of its archive into "
                f"{writer.store.uri} would embed these again. Delete them there too (`indexer delete`)."
            )
        with progress.stage(f"merging {len(todo)} shards of {other.uri}", len(todo)):
            _add(writer, other, todo, report, progress)
    return report


def _require_fitting(store: EmbeddingStore, other: EmbeddingStore) -> None:
    store.require(other.spec)
    if other.state.identity and other.state.identity == store.state.identity:
        raise InputError(f"{other.uri} is the table {store.name} itself, or a copy of it. Name another database.")
    if (other.keys, other.tiles) != (store.keys, store.tiles):
        raise InputError(
            f"the rows of {other.uri} are named by another rule ({other.keys}, {other.tiles}) than those of "
            f"{store.uri} ({store.keys}, {store.tiles}). Index one of the archives again with the other's --key, "
            "--prefix or --tile."
        )


def _require_one_type(store: EmbeddingStore, other: EmbeddingStore) -> None:
    clash = _clashing(store, other)
    if clash and _has_labels(other, clash):
        kinds = store.columns(), other.columns()
        named = ", ".join(f"{name} ({kinds[0][name]} and {kinds[1][name]})" for name in clash)
        raise InputError(
            f"labels in columns of two types: {named}. Join them in {other.uri} under another name "
            "(`indexer labels --columns NEW=OLD`)."
        )


def _clashing(store: EmbeddingStore, other: EmbeddingStore) -> list[str]:
    mine = store.columns()
    return [name for name, kind in other.columns().items() if name in mine and mine[name] != kind]


def _has_labels(other: EmbeddingStore, names: Sequence[str]) -> bool:
    for batch in other.scan([*CarriedLabels.COLUMNS, *names]):
        labels = CarriedLabels()
        labels.add(batch, names)
        if len(labels):
            return True
    return False


def _new_columns(store: EmbeddingStore, other: EmbeddingStore) -> list[pa.Field]:
    mine = store.columns()
    return [pa.field(name, kind) for name, kind in other.columns().items() if name not in mine]


@dataclass(frozen=True)
class _Held:
    """A shard's ledger entry, and the table whose rows it stands for."""

    entry: LedgerEntry
    store: EmbeddingStore


def _plan(
    holders: Mapping[str, _Held], other: EmbeddingStore, report: MergeReport, *, keep: bool
) -> dict[str, tuple[LedgerEntry, bool]]:
    """The shards to add: their ledger entries there, and whether they replace a beginning of theirs here.

    `holders` are the shards that the table has, or will have from tables that are merged before this one.
    """
    todo: dict[str, tuple[LedgerEntry, bool]] = {}
    differing: list[str] = []
    rows: dict[str, ShardRows] = {}  # by database

    def content(store: EmbeddingStore, name: str) -> Digests:
        if store.uri not in rows:
            rows[store.uri] = ShardRows(store)
        return _content(store, rows[store.uri], name)

    for name, entry in entries_of(other).items():
        held = holders.get(name)
        if entry.status == BEGUN:
            report.notes.append(f"{name} is not complete in {other.uri} and was left out: index it there to its end")
        elif held is None or (held.entry.status == BEGUN and held.entry.identity == entry.identity):
            todo[name] = entry, held is not None
        elif held.entry.identity == entry.identity or np.array_equal(content(other, name), content(held.store, name)):
            report.same += 1
        else:
            differing.append(name)
    if differing and not keep:
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        first = holders[differing[0]].store.uri
        raise InputError(
            f"{differing[0]}{more}: other content in {other.uri} than in {first}. Index it again in one of them "
            "(--changed replace), give one archive another address (`indexer relocate`), or keep the content of "
            f"{first} with --differing keep."
        )
    report.kept += differing
    return todo


def _content(store: EmbeddingStore, rows: ShardRows, shard: str) -> Digests:
    """Sorted digests of the key and content of a shard's rows."""
    parts = [
        row_digests(batch, ("key", "content"))
        for where in rows.filters([shard])
        for batch in store.scan(["key", "content"], where)
    ]
    return np.sort(np.concatenate([np.empty(0, "S16"), *parts]))


def _add(
    writer: StoreWriter,
    other: EmbeddingStore,
    todo: Mapping[str, tuple[LedgerEntry, bool]],
    report: MergeReport,
    progress: Progress,
) -> None:
    clash = _clashing(writer.store, other)
    labels = [name for name in label_columns(other) if name not in clash]
    facts = [name for name in other.columns() if name.startswith(PART_COLUMN)]
    columns = ["key", *PLACE_COLUMNS, "content", "meta", "norm", *facts, *labels]
    rows = ShardRows(other)
    group: list[ShardResult] = []
    carried = CarriedLabels()
    writer.expect(set(todo), {name for name, (_, again) in todo.items() if again})

    def commit() -> None:
        nonlocal group, carried
        if group:
            written = writer.commit(group, carried)
            writer.tidy_when_due()
            report.shards += sum(not result.more for result in group)
            report.rows += written.embedded
            report.failed += len(written.failures)
            report.adopted += written.adopted
            report.labelled += written.labels_kept
            for failure in written.failures:
                report.reasons[failure.reason] = report.reasons.get(failure.reason, 0) + 1
        group, carried = [], CarriedLabels()

    for name, (entry, again) in todo.items():
        found = (batch for where in rows.filters([name]) for batch in other.scan(columns, where, vectors=True))
        for whole, batch in _results(other, name, entry, again, found, facts):
            (result,) = without_deleted(iter([whole]), writer)  # from this table, by request
            if batch is not None:
                carried.add(batch, labels)
            group.append(result)
            if sum(len(own.rows) for one in group for own in one.batches) >= ROWS:
                commit()
        progress.advance(shards=report.shards)
    commit()


def _results(
    other: EmbeddingStore,
    name: str,
    entry: LedgerEntry,
    again: bool,
    found: Iterator[pa.RecordBatch],
    facts: Sequence[str],
) -> Iterator[tuple[ShardResult, pa.RecordBatch | None]]:
    """A shard in parts, the last of which has the failures."""
    shard = Shard(entry.url, name, entry.identity)
    held: pa.RecordBatch | None = None
    for batch in found:
        if held is not None:
            yield ShardResult(shard, (_batch(held, facts),), (), entry.samples, replaces=again, more=True), held
            again = False
        held = batch
    failures = tuple(Failure(**row) for row in other.failures(f"shard = {quoted(name)}").to_pylist())
    last = () if held is None else (_batch(held, facts),)
    yield (
        ShardResult(shard, last, failures, entry.samples, entry.status == "partial", again, adopted=entry.adopted),
        held,
    )


def _batch(found: pa.RecordBatch, facts: Sequence[str]) -> EmbeddingBatch:
    names = ["key", *PLACE_COLUMNS, "content", "meta", *facts]
    rows = tuple(
        EmbeddingRow(
            row["key"],
            place_of(row),
            row["content"],
            json.loads(row["meta"]),
            {name.removeprefix(PART_COLUMN): row[name] for name in facts if row[name] is not None},
        )
        for row in found.select(names).to_pylist()
    )
    return EmbeddingBatch(rows, vector_block(found).copy(), found.column("norm").to_numpy().astype(np.float32))
