"""Builds and refreshes a table's index, bound to a table version by a tag: one builder at a time, published at once."""

from __future__ import annotations

import datetime
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from indexer.ann.build import build, retune
from indexer.ann.choose import Candidate, choose, predicted_seconds
from indexer.ann.engines.faiss_kinds import version
from indexer.ann.engines.kinds import ENGINES
from indexer.ann.engines.routing import float_blocks
from indexer.ann.files import facts_of, index_path, vector_paths
from indexer.ann.goal import Goal, GoalChange
from indexer.ann.index import Searchable, VectorIndex
from indexer.ann.manifest import FORMAT, WITH_QUERIES, Manifest, read_manifest
from indexer.ann.sampling import GivenQueries
from indexer.ann.vectors import COPY_ROWS, KeyedBlock, VectorFile, VectorPaths, write_vectors
from indexer.errors import IndexFileError, StoreError
from indexer.progress.silent import SILENT
from indexer.search.indexes.place import IndexPlace, index_place
from indexer.search.snapshot import Snapshot, changes_since, first_snapshot, row_ids_of
from indexer.store.lock import WriterLock
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Progress

TAG = "faiss-"
BEFORE = ", before a refresh"  # added to the name of the queries where they were not given again
# Of the rows at the build. benchmarks/refresh: rows like the old ones cost nothing even at 100 %; rows unlike them
# make a query scan 1.05 to 1.9 times as much up to here, 2.5 times at 50 %, 3.5 times at 100 %.
REBUILD_SHARE = 0.3


@dataclass(frozen=True)
class BuildReport:
    """The result of a build or refresh."""

    table: str
    action: str  # built | refreshed | rebuilt | rebound | unchanged
    why: str
    manifest: Manifest
    candidates: tuple[Candidate, ...]
    inserted: int
    updated: int
    deleted: int
    seconds: float
    predicted_seconds: float | None = None  # what a build was predicted to take before it began
    sample_rows: int = 0  # rows on which the candidates were measured


def build_index(
    store: EmbeddingStore,
    goal: Goal,
    *,
    seed: int = 0,
    given: GivenQueries | None = None,
    progress: Progress = SILENT,
) -> BuildReport:
    """Choose, build and publish an index of the table's newest version. Raises StoreLocked while another build runs.

    It is tuned and measured with rows that are held out, or with `given` queries.
    """
    with _locked(store) as place:
        return _build(store, place, goal, (seed, given), progress, action="built", why="asked for")


def refresh_index(
    store: EmbeddingStore,
    change: GoalChange | None = None,
    *,
    memory_bytes: int = Goal.memory_bytes,
    seed: int = 0,
    given: GivenQueries | None = None,
    progress: Progress = SILENT,
) -> BuildReport:
    """Update the index to the table's version with the changed rows, or rebuild it where too many changed.

    The index keeps the recall, latency and kind it was built for; a `change` of these rebuilds it. The report names
    the action and its reason. An index that was measured with given queries keeps its settings and measurements where
    they are not given again, and says so.
    """
    change = change or GoalChange()
    with _locked(store) as place:
        started = time.perf_counter()
        index = place.load()
        if index is None:
            goal, _ = change.of(Goal(memory_bytes=memory_bytes))
            return _build(
                store, place, goal, (seed, given), progress, action="built", why="there was no index to refresh"
            )
        goal, changes = change.of(_goal_of(index.manifest, memory_bytes))
        if changes:
            why = f"another index is asked for: {', '.join(changes)}"
            return _build(store, place, goal, (seed, given), progress, action="rebuilt", why=why)
        store.refresh()
        view = store.at(store.version)
        delta = changes_since(index, view)
        # Inserted and deleted rows need no comparison of vectors; updated rows may have new labels only.
        if why := _too_many(index.manifest, len(delta.inserted) + len(delta.deleted)):
            return _build(store, place, goal, (seed, given), progress, action="rebuilt", why=why)
        now = first_snapshot(view, index, memory_bytes, delta)
        changed = _count(now)
        if why := _too_many(index.manifest, sum(changed)):
            return _build(store, place, goal, (seed, given), progress, action="rebuilt", why=why)
        if not any(changed):
            return _rebind(store, place, index.manifest, now, started)
        return _refresh(store, place, index, now, (started, given), progress)


def _goal_of(manifest: Manifest, memory_bytes: int) -> Goal:
    return Goal(manifest.recall_target, manifest.latency_ms, memory_bytes, manifest.kind_asked)


def _too_many(manifest: Manifest, changed: int) -> str:
    """The reason for a rebuild where too many rows changed; else empty."""
    share = (changed + manifest.refreshed_rows) / max(manifest.rows_at_build, 1)
    if share <= REBUILD_SHARE:
        return ""
    return f"{share:.0%} of the rows changed since it was built, more than {REBUILD_SHARE:.0%}"


@contextmanager
def _locked(store: EmbeddingStore) -> Iterator[IndexPlace]:
    place = index_place(store)
    if place.directory.is_symlink():  # files of another folder would be swept
        raise IndexFileError(
            f"{place.directory} is a link, which is not followed. Remove it and build the index again."
        )
    place.directory.mkdir(parents=store.path is None, exist_ok=True)
    with WriterLock(place.directory / "build.lock", what=f"the index of table {store.name}"):
        place.begin()
        yield place


def _build(
    store: EmbeddingStore,
    place: IndexPlace,
    goal: Goal,
    drawn: tuple[int, GivenQueries | None],
    progress: Progress,
    *,
    action: str,
    why: str,
) -> BuildReport:
    started, given = time.perf_counter(), drawn[1]
    store.refresh()
    with _generation(store, place) as generation:
        view = store.at(store.version)
        predicted = predicted_seconds(view.count(), store.dim)
        progress.note(f"predicted build time: {predicted:.2g} s, if lists meet the goal")
        rows, slack = _held(view, vector_paths(place.directory, generation), progress)
        rows.keep_within(goal.memory_bytes)
        with progress.stage("measuring candidates"):
            choice = choose(rows, goal, *drawn)
        progress.note(choice.verdict)
        progress.note(f"predicted time still to go: {choice.chosen.build_seconds:.2g} s")
        built = build(rows, choice, goal, progress=progress)
        with progress.stage("writing"):
            built.engine.save(built.index, index_path(place.directory, generation))
        manifest = Manifest(
            table=store.name,
            fingerprint=store.spec.fingerprint,
            version=view.version,
            identity=view.state.identity,
            commit=view.state.commit,
            tag=TAG + generation,
            generation=generation,
            rows=len(rows),
            dim=store.dim,
            kind=built.engine.name,
            factory=built.engine.factory(built.nlist),
            nlist=built.nlist,
            settings=built.settings,
            recall_target=goal.recall,
            latency_ms=goal.latency_ms,
            kind_asked=goal.kind,
            queries="" if given is None else given.name,
            format=FORMAT if given is None else WITH_QUERIES,
            slack=slack,
            measured=built.measured,
            build_seconds=round(time.perf_counter() - started, 3),
            rows_at_build=len(rows),
            refreshed_rows=0,
            stale=0,
            built_at=_now(),
            faiss_version=version(),
            files=facts_of(place.directory, generation),
        )
        place.publish(manifest)
    _tidy(store, place, manifest)
    seconds = time.perf_counter() - started
    return BuildReport(
        store.name, action, why, manifest, choice.candidates, 0, 0, 0, seconds, predicted, choice.sample_rows
    )


def _held(view: EmbeddingStore, paths: VectorPaths, progress: Progress) -> tuple[VectorFile, float]:
    """The rows of the version, mapped from files of the index, and the bound on how far their lengths are from 1."""
    with progress.stage("reading vectors", view.count()):
        slack = write_vectors(paths, _table_rows(view, progress))
    return VectorFile(paths, view.dim, slack), slack


def _refresh(
    store: EmbeddingStore,
    place: IndexPlace,
    old: VectorIndex,
    now: Snapshot,
    begun: tuple[float, GivenQueries | None],
    progress: Progress,
) -> BuildReport:
    (started, given), manifest, engine = begun, old.manifest, ENGINES[old.manifest.kind]
    changed = _count(now)
    with _generation(store, place, now.version) as generation:
        paths = vector_paths(place.directory, generation)
        fresh = now.fresh
        if fresh is None:
            raise StoreError("a snapshot with an index always holds its fresh rows")
        with progress.stage("copying vectors", len(old.rows) - len(now.gone) + len(fresh)):
            slack = write_vectors(paths, _old_and_fresh(old, now, progress))
        rows = VectorFile(paths, store.dim, slack)
        index = engine.load(index_path(place.directory, manifest.generation), writable=True)
        if engine.removes:
            engine.remove(index, now.gone)
        engine.add(index, float_blocks(fresh, COPY_ROWS))
        stale = manifest.stale + (0 if engine.removes else len(now.gone))
        with progress.stage("measuring"):
            settings, measured, queries = manifest.settings, manifest.measured, manifest.queries
            if given is not None or not queries:
                over = Searchable(index, engine, rows, stale > 0)
                settings, measured = retune(over, manifest.recall_target, given=given)
                queries = "" if given is None else given.name
            elif not queries.endswith(BEFORE):
                queries += BEFORE
        engine.save(index, index_path(place.directory, generation))
        new = replace(
            manifest,
            version=now.version,
            identity=now.view.state.identity,
            commit=now.view.state.commit,
            format=WITH_QUERIES if queries else FORMAT,
            queries=queries,
            tag=TAG + generation,
            generation=generation,
            rows=len(rows),
            settings=settings,
            measured=measured,
            refreshed_rows=manifest.refreshed_rows + sum(changed),
            stale=stale,
            slack=slack,
            faiss_version=version(),
            files=facts_of(place.directory, generation),
        )
        place.publish(new)
    _tidy(store, place, new)
    seconds = time.perf_counter() - started
    return BuildReport(store.name, "refreshed", "by what changed since", new, (), *changed, seconds)


def _rebind(store: EmbeddingStore, place: IndexPlace, manifest: Manifest, now: Snapshot, started: float) -> BuildReport:
    """Publish the same files for the newer version, in which no vector changed."""
    if now.version == manifest.version and manifest.format >= FORMAT:
        action, why, new = "unchanged", "the table has not changed", manifest
    else:
        action, why = "rebound", "the table has a newer version, but no vector changed"
        tag = f"{TAG}{manifest.generation}-v{now.version}"
        state = now.view.state
        new = replace(
            manifest,
            version=now.version,
            identity=state.identity,
            commit=state.commit,
            format=max(manifest.format, FORMAT),
            tag=tag,
        )
        store.tag(tag, now.version)
        place.publish(new)
        _tidy(store, place, new)
    return BuildReport(store.name, action, why, new, (), 0, 0, 0, time.perf_counter() - started)


def _tidy(store: EmbeddingStore, place: IndexPlace, manifest: Manifest) -> None:
    for tag in store.tags():  # also tags left by a killed builder
        if tag.startswith(TAG) and tag != manifest.tag:
            store.untag(tag)
    place.sweep(manifest.generation)


@contextmanager
def _generation(store: EmbeddingStore, place: IndexPlace, at: int | None = None) -> Iterator[str]:
    """The name of a new generation, whose table version is tagged; rolled back where the build fails."""
    held = store.version if at is None else at
    generation = f"v{held}-{secrets.token_hex(4)}"
    store.tag(TAG + generation, held)
    try:
        yield generation
    except BaseException:
        current = read_manifest(place.directory)
        if current is not None and current.generation == generation:
            raise  # published before the interruption
        store.untag(TAG + generation)
        for path in place.directory.glob(f"*-{generation}.*"):
            path.unlink(missing_ok=True)
        raise


def _table_rows(view: EmbeddingStore, progress: Progress) -> Iterator[KeyedBlock]:
    for batch in view.scan(["key"], vectors=True):
        yield row_ids_of(batch), vector_block(batch), batch.column("key")
        progress.advance(batch.num_rows)


def _old_and_fresh(old: VectorIndex, now: Snapshot, progress: Progress) -> Iterator[KeyedBlock]:
    kept = np.flatnonzero(~np.isin(old.rows.row_ids, now.gone)).astype(np.int64)
    for block in chain(old.rows.blocks(kept), now.fresh.blocks() if now.fresh is not None else ()):
        yield block
        progress.advance(len(block[0]))


def _count(now: Snapshot) -> tuple[int, int, int]:
    """Rows inserted, updated and deleted since the index, by their vectors."""
    fresh = now.fresh.row_ids if now.fresh is not None else np.empty(0, np.int64)
    updated = int(np.isin(fresh, now.gone).sum())
    return len(fresh) - updated, updated, len(now.gone) - updated


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
