"""Checks a table and its index by measuring them anew, independently of what a build recorded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.ann.exact import Found
from indexer.ann.manifest import read_manifest
from indexer.errors import IndexFileError, StoreError
from indexer.search.indexes.place import index_place
from indexer.search.searcher import MEMORY_BYTES, Searcher
from indexer.search.snapshot import Snapshot
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Float64, Int64
from indexer.upkeep.sources import SourceHealth, source_health

MANY_FRAGMENTS = 100  # more fragments slow scans down
COLLAPSED = 0.995  # mean cosine of random pairs above which the encoder hardly distinguishes images
UNIT_TOLERANCE = 2e-3  # float16 rows of length 1
QUERIES = 256
SAMPLE = 2_000
RECALL_TOLERANCE = 0.005
MENDED = ("tif", "tiff", "dcm", "dicom", "")  # suffixes of images of which version 0.1 decoded some wrongly
COMPARED = 1 << 14  # hashes compared at once


@dataclass(frozen=True)
class IndexHealth:
    """The state of the index relative to the table's present version."""

    kind: str
    version: int  # of the table it was built from
    rows_in_index: int
    rows_not_in_index: int  # newer or updated; searches scan them
    rows_gone: int  # in the index, but deleted or updated since; searches skip them
    stale_entries: int  # outdated entries that this kind cannot remove; a rebuild drops them
    recall_at_10: float  # of searches in the present version, against exact search
    recall_target: float
    queries: int  # rows that recall was measured with just now
    tuned_on: str  # "held-out rows", or the queries that were given to the build


@dataclass(frozen=True)
class HealthReport:
    """Measurements of a table; `problems` lists defects, each with its remedy.

    Failures are counted but are not problems of the table; `indexer failures` lists them.
    """

    table: str
    version: int
    encoder: str
    rows: int
    fragments: int
    versions: int
    shards: int
    shards_partial: int
    failures: int
    zero_or_not_finite: int
    not_unit: int
    duplicate_content: int  # rows with the same image bytes as another row
    duplicate_keys: int
    mean_cosine: float | None  # of random pairs; near 1 means a collapsed encoder
    index: IndexHealth | None
    sources: SourceHealth | None  # None where the rows cannot be read
    problems: list[str]


@dataclass
class _Scan:
    """Counts from one pass over all rows."""

    rows: int = 0
    zero_or_not_finite: int = 0
    not_unit: int = 0
    duplicate_content: int = 0
    duplicate_keys: int = 0


def health(store: EmbeddingStore, *, seed: int = 0, memory_bytes: int = MEMORY_BYTES) -> HealthReport:
    """Reads every row once, searches with some of them, and reads some images back.

    Raises StoreError where the table cannot be read.
    """
    store.refresh()
    view = store.at(store.version)
    if view.unreadable_columns:
        return _unreadable(view)
    scan = _scan(view)
    problems = _table_problems(view, scan)
    mean_cosine = _mean_cosine(view, scan.rows, seed)
    if mean_cosine is not None and mean_cosine > COLLAPSED:
        problems.append(
            f"random rows have a mean cosine of {mean_cosine:.4f}: the encoder is collapsed, hits mean nothing. "
            "Check its weights, and index again with another."
        )
    if view.spec.random:
        problems.append(
            f"the encoder's weights are random ({view.spec.weights}): for tests only. Index with trained ones."
        )
    index = None
    try:
        place = index_place(store)
        place.fetch()
        if read_manifest(place.directory) is not None:
            index = _index_health(Searcher(store, memory_bytes=memory_bytes, rehash=True).snapshot, seed)
    except IndexFileError as error:
        problems.append(str(error))
    if index is not None:
        problems += _index_problems(index)
    sources, unreadable = source_health(view, seed)
    problems += unreadable
    ledger = _side_counts(view, problems)
    return HealthReport(
        table=view.name,
        version=view.version,
        encoder=f"{view.spec.name} {view.spec.weights} ({view.spec.fingerprint})",
        rows=scan.rows,
        fragments=view.fragments(),
        versions=view.versions(),
        shards=ledger[0],
        shards_partial=ledger[1],
        failures=ledger[2],
        zero_or_not_finite=scan.zero_or_not_finite,
        not_unit=scan.not_unit,
        duplicate_content=scan.duplicate_content,
        duplicate_keys=scan.duplicate_keys,
        mean_cosine=mean_cosine,
        index=index,
        sources=sources,
        problems=problems,
    )


def _unreadable(view: EmbeddingStore) -> HealthReport:
    """The report on a table whose rows cannot be read: only the counts of the ledger."""
    problems = [
        f"Lance has columns named {', '.join(view.unreadable_columns)} of its own, so no row can be read: run "
        f"`indexer optimize {view.uri} --table {view.name}`, which renames the table's."
    ]
    shards, partial, failures = _side_counts(view, problems)
    encoder = f"{view.spec.name} {view.spec.weights} ({view.spec.fingerprint})"
    return HealthReport(
        view.name, view.version, encoder, 0, view.fragments(), view.versions(), shards, partial, failures,
        0, 0, 0, 0, None, None, None, problems,
    )  # fmt: skip


def _scan(view: EmbeddingStore) -> _Scan:
    out = _Scan()
    hashes = np.empty(view.count(), np.int64)  # 8 bytes a row, for one column after the other
    for batch in view.scan(["key"], vectors=True):
        with np.errstate(all="ignore"):
            lengths = np.linalg.norm(vector_block(batch).astype(np.float32), axis=1)
        broken = ~np.isfinite(lengths) | (lengths == 0)
        out.zero_or_not_finite += int(broken.sum())
        out.not_unit += int((~broken & (np.abs(lengths - 1) > UNIT_TOLERANCE)).sum())
        rows = slice(out.rows, out.rows + batch.num_rows)
        hashes[rows] = np.fromiter(map(hash, batch.column("key").to_pylist()), np.int64, batch.num_rows)
        out.rows += batch.num_rows
    out.duplicate_keys = _repeats(hashes)
    start = 0
    for batch in view.scan(["content", "part"]):
        images = zip(*(batch.column(name).to_pylist() for name in ("content", "part")), strict=True)
        hashes[start : start + batch.num_rows] = np.fromiter(map(hash, images), np.int64, batch.num_rows)
        start += batch.num_rows
    out.duplicate_content = _repeats(hashes)
    return out


def _repeats(hashes: Int64) -> int:
    """The number of hashes (n,) that repeat another one. Sorts them in place, to save a copy."""
    hashes.sort()
    steps = range(0, len(hashes), COMPARED)
    return sum(int(np.count_nonzero(np.diff(hashes[at : at + COMPARED + 1]) == 0)) for at in steps)


def _table_problems(view: EmbeddingStore, scan: _Scan) -> list[str]:
    problems = []
    if not scan.rows:
        problems.append("the table has no rows. Fill it with `indexer index`.")
    if scan.zero_or_not_finite:
        problems.append(f"{scan.zero_or_not_finite} rows have a zero or non-finite vector: index their shards again.")
    if scan.not_unit:
        problems.append(f"{scan.not_unit} rows are not of length 1: another program wrote them. Index them again.")
    if scan.duplicate_keys:
        problems.append(f"{scan.duplicate_keys} rows repeat a key: another program wrote them. Delete one of each.")
    if scan.duplicate_content:
        problems.append(
            f"{scan.duplicate_content} rows repeat another row's image bytes: `indexer near-duplicates` lists them."
        )
    old = view.count_of_format_1(MENDED)
    if old:
        problems.append(
            f"{old} rows of TIFF or DICOM images were embedded by version 0.1, which decoded some of these wrongly "
            "(compressed TIFF, lookup tables, colour models of DICOM): index them into a new table."
        )
    if view.fragments() > MANY_FRAGMENTS:
        problems.append(f"{view.fragments()} fragments slow every scan: run `indexer optimize`.")
    return problems


def _side_counts(view: EmbeddingStore, problems: list[str]) -> tuple[int, int, int]:
    """Numbers of shards, partial shards and failures; defects are added to `problems`."""
    try:
        ledger, failures = view.ledger(), view.count_failures()
    except StoreError as error:
        problems.append(str(error))
        return 0, 0, 0
    statuses = ledger.column("status").to_pylist()
    partial, begun = statuses.count("partial"), statuses.count("begun")
    if begun:
        problems.append(f"{begun} shards are stored in part, since a run was stopped: index again to go on with them.")
    if partial:
        problems.append(f"{partial} shards were cut or damaged and are stored in part: repair them and index again.")
    return len(ledger), partial, failures


def _mean_cosine(view: EmbeddingStore, rows: int, seed: int) -> float | None:
    """Mean cosine over all pairs of a sample of rows; None for fewer than two rows."""
    vectors = _sample(view, rows, seed, SAMPLE)[1]
    n = len(vectors)
    if n < 2:
        return None
    total = float((vectors.sum(0) ** 2).sum())  # Σᵢⱼ xᵢ·xⱼ; the n products of a row with itself are 1
    return (total - n) / (n * (n - 1))


def _sample(view: EmbeddingStore, rows: int, seed: int, n: int) -> tuple[Int64, Float64]:
    """Row ids and unit vectors of a random sample of valid rows of the whole table, from one pass."""
    wanted = (
        np.sort(np.random.default_rng(seed).choice(rows, min(n, rows), replace=False)) if rows else np.empty(0, int)
    )
    ids, vectors, seen = [np.empty(0, np.int64)], [np.empty((0, view.dim))], 0
    for batch in view.scan([], vectors=True):
        spots = wanted[(wanted >= seen) & (wanted < seen + batch.num_rows)] - seen
        seen += batch.num_rows
        picked = vector_block(batch)[spots].astype(np.float64)
        with np.errstate(all="ignore"):
            lengths = np.linalg.norm(picked, axis=1)
        sound = np.isfinite(lengths) & (lengths > 0)
        ids.append(batch.column("_rowid").to_numpy().astype(np.int64)[spots][sound])
        vectors.append(picked[sound] / lengths[sound, None])
    return np.concatenate(ids), np.concatenate(vectors)


def _index_health(snapshot: Snapshot, seed: int) -> IndexHealth | None:
    index = snapshot.index
    if index is None:
        return None
    row_ids, queries = _sample(snapshot.view, snapshot.view.count(), seed, QUERIES)
    recall = _recall(snapshot, row_ids, queries)
    return IndexHealth(
        kind=index.manifest.kind,
        version=index.manifest.version,
        rows_in_index=index.manifest.rows - len(snapshot.gone),
        rows_not_in_index=0 if snapshot.fresh is None else len(snapshot.fresh),
        rows_gone=len(snapshot.gone),
        stale_entries=index.manifest.stale,
        recall_at_10=recall,
        recall_target=index.manifest.recall_target,
        queries=len(queries),
        tuned_on=index.manifest.queries or "held-out rows",
    )


def _recall(snapshot: Snapshot, row_ids: Int64, queries: Float64) -> float:
    """Recall@10 of a search against a full scan; a query's own row is excluded from both."""
    if not len(queries):
        return 1.0
    truth, found = (_others(f, row_ids) for f in (snapshot.scan(queries, 11), snapshot.search(queries, 11, None)))
    neighbours = int((truth > -np.inf).sum())
    lowest = np.where(truth > -np.inf, truth, np.inf).min(1, keepdims=True)
    return float((found >= lowest).sum() / max(neighbours, 1))


def _others(found: Found, own: Int64) -> Float64:
    """The 10 best scores (q, 10) of rows that are not the query's own."""
    scores = np.where((found[1] == own[:, None]) | (found[1] < 0), -np.inf, found[0])
    best: Float64 = -np.sort(-scores, axis=1)[:, :10]
    return best


def _index_problems(index: IndexHealth) -> list[str]:
    problems = []
    noise = float(np.sqrt(index.recall_target * (1 - index.recall_target) / max(10 * index.queries, 1)))
    if index.recall_at_10 < index.recall_target - max(2 * noise, RECALL_TOLERANCE):
        problems.append(
            f"recall@10 is {index.recall_at_10:.3f} on this table now, {index.recall_target:g} was asked for (settings "
            f"chosen on {index.tuned_on}): run `indexer build-ann`."
        )
    if index.rows_not_in_index or index.rows_gone:
        problems.append(
            f"{index.rows_not_in_index} rows are not in the index and {index.rows_gone} of its rows are gone; searches "
            "are right, but slower: run `indexer build-ann --refresh`."
        )
    return problems
