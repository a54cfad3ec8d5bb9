"""Makes a table's map: fit, place every row, measure what it is worth, write."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable

import numpy as np

from indexer.errors import InputError
from indexer.mapping.files import Map, MapFacts, map_path, write_map
from indexer.mapping.kept import kept
from indexer.mapping.layout import Sample, require_tsne
from indexer.mapping.options import LEAST_SAMPLE, MapOptions
from indexer.mapping.principal import Plane, directed, fit_plane
from indexer.output_file import require_writable
from indexer.progress.silent import SILENT
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Float16, Float64, Int64, Progress

Placing = Callable[
    [Int64, Float16], tuple[Int64, Float64]
]  # ids and vectors (m, dim) → ids, coordinates of those placed


def make_map(store: EmbeddingStore, options: MapOptions, *, progress: Progress = SILENT) -> MapFacts:
    """Place every row of the newest version, and replace the table's map.

    Memory: 40 bytes a row, one square matrix of the dimension, and the sampled vectors. Raises InputError where the
    table has no row, or openTSNE is missing.
    """
    started = time.perf_counter()
    require_writable(map_path(store))
    if options.method == "opentsne":
        require_tsne()
    view = store.at(store.version)
    n = view.count()
    with progress.stage("principal axes", n):
        plane, row_ids = fit_plane(view, progress)
    if not len(row_ids):
        raise InputError(f"table {store.name} has no row with a vector: nothing to map. Run `indexer index` first.")
    place, laid_out = _placing(view, options, plane, row_ids)
    with progress.stage("places", n):
        row_ids, places = _placed(view, place, len(row_ids), progress)
    with progress.stage("neighbours kept", n):
        worth = kept(view, row_ids, places.astype(np.float64), options.seed, progress)
    facts = MapFacts(
        table=view.name,
        identity=view.state.identity,
        version=view.version,
        commit=view.state.commit,
        fingerprint=view.state.fingerprint,
        method=options.method,
        seed=options.seed,
        rows=len(row_ids),
        left_out=n - len(row_ids),
        laid_out=laid_out,
        explained=plane.explained,
        neighbours_kept=worth.share,
        kept_by_chance=worth.by_chance,
        k=worth.k,
        tested=worth.tested,
        made_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=round(time.perf_counter() - started, 3),
    )
    order = np.argsort(row_ids)
    write_map(store, Map(facts, row_ids[order], places[order]))
    return facts


def _placing(view: EmbeddingStore, options: MapOptions, plane: Plane, row_ids: Int64) -> tuple[Placing, int]:
    """How rows are placed, and how many of them the method itself lays out."""
    if options.method == "pca":

        def project(ids: Int64, vectors: Float16) -> tuple[Int64, Float64]:
            ids, units = directed(ids, vectors)
            return ids, plane.project(units)

        return project, len(row_ids)
    if len(row_ids) < LEAST_SAMPLE:
        raise InputError(
            f"--method opentsne needs {LEAST_SAMPLE} rows, the table has {len(row_ids)}. Use --method pca."
        )
    size = min(options.sample, len(row_ids))
    chosen = np.random.default_rng(options.seed).choice(len(row_ids), size, replace=False)
    return Sample(view, np.sort(row_ids[chosen]), plane, options.seed).place, size


def _placed(
    view: EmbeddingStore, place: Placing, n: int, progress: Progress
) -> tuple[Int64, np.ndarray[tuple[int, int], np.dtype[np.float32]]]:
    """Ids (n,) and coordinates (n, 2) of all rows that have a direction."""
    row_ids, places, done = np.empty(n, np.int64), np.empty((n, 2), np.float32), 0
    for batch in view.scan([], vectors=True):
        ids, found = place(batch.column("_rowid").to_numpy().astype(np.int64), vector_block(batch))
        row_ids[done : done + len(ids)], places[done : done + len(ids)] = ids, found
        done += len(ids)
        progress.advance(batch.num_rows)
    return row_ids, places
