"""What is measured before a build: queries that nothing was trained on, lists that hold the true neighbours."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from indexer.ann import choose as choose_module
from indexer.ann.choose import choose, predicted_seconds
from indexer.ann.engines.kinds import CANDIDATES, ENGINES
from indexer.ann.engines.protocol import Trained
from indexer.ann.engines.routing import float_blocks, lists_needed, train_centroids
from indexer.ann.goal import Goal
from indexer.ann.sampling import draw
from indexer.ann.tune import neighbours_of, truth_of
from indexer.ann.vectors import Rows
from indexer.search.index_build import build_index, refresh_index
from indexer.search.options import SearchOptions
from indexer.search.searcher import Searcher
from tests.tables import add_shard, keys_of, make_table, nearest_keys, unit, unit_rows


def rows_of(vectors: np.ndarray) -> Rows:
    return Rows(np.arange(len(vectors), dtype=np.int64) * 3 + 1, vectors)


@pytest.mark.parametrize("n", [0, 1, 3, 50, 1_000, 40_000])
@pytest.mark.parametrize("seed", [0, 1])
def test_held_out_queries_are_in_neither_the_sample_nor_the_training_points(n: int, seed: int) -> None:
    drawn = draw(n, 16, 1 << 30, seed)
    for others in (drawn.sample, drawn.training):
        assert not np.isin(drawn.queries, others).any()
        assert len(np.unique(others)) == len(others)
        assert np.isin(others, np.arange(n)).all()
    assert len(drawn.queries) <= n // 4


def test_the_lists_said_to_be_needed_are_just_those_that_find_each_neighbour() -> None:
    rows = rows_of(unit_rows(800, 16, clusters=40))
    floats = rows.vectors.astype(np.float32)
    engine = ENGINES["ivf-fp16"]
    index = engine.build(16, Trained(train_centroids(floats, 25), floats))
    engine.add(index, float_blocks(rows, 300))
    truth = truth_of(rows, unit(unit_rows(12, 16, seed=5)), np.full(12, -1, np.int64))
    needed = lists_needed(index, neighbours_of(rows, truth))
    for q in range(12):
        for neighbour, lists in zip(truth.ids[q], needed[q], strict=True):
            for nprobe in range(1, 26):
                found = engine.candidates(index, truth.queries[q : q + 1], 800, nprobe)[1]
                assert (neighbour in found) == (nprobe >= lists)


@pytest.mark.parametrize("n", [0, 1, 2, 5])
@pytest.mark.parametrize("kind", [k.name for k in CANDIDATES])
def test_any_kind_over_a_handful_of_rows_finds_them_all(tmp_path: Path, kind: str, n: int) -> None:
    store = make_table(tmp_path, unit_rows(n, 8))
    build_index(store, Goal(kind=kind))
    (hits,) = Searcher(store).by_vector(unit_rows(1, 8, seed=4).astype(np.float32))
    assert sorted(keys_of(hits)) == [f"k{i}" for i in range(n)]


@pytest.mark.parametrize("clusters", [1, 900])
def test_settings_chosen_on_held_out_rows_hold_for_queries_that_are_no_rows(tmp_path: Path, clusters: int) -> None:
    """900 clusters of ten rows: a sample of them lies about a query quite unlike the whole table does."""
    vectors = unit_rows(9_000, 32, clusters=clusters, spread=0.6)
    store = make_table(tmp_path, vectors)
    report = build_index(store, Goal(kind="ivf-sq8"))
    queries = unit_rows(200, 32, seed=7, clusters=clusters, spread=0.6).astype(np.float32)
    expected = nearest_keys(queries, [f"k{i}" for i in range(9_000)], vectors, 10)
    found = Searcher(store).by_vector(queries, SearchOptions(k=10))
    right = sum(len(set(keys_of(f)) & set(e)) for f, e in zip(found, expected, strict=True))
    assert right / 2_000 >= 0.97
    assert report.manifest.settings.nprobe < report.manifest.nlist  # and not by looking into all lists


def test_the_candidates_measured_are_all_told_with_a_reason() -> None:
    choice = choose(rows_of(unit_rows(4_000, 32)), Goal(latency_ms=1e-6))
    assert {c.kind for c in choice.candidates} == set(ENGINES)
    assert all(c.reason for c in choice.candidates)
    assert sum(c.chosen for c in choice.candidates) == 1
    assert "NO candidate met the goal" in choice.chosen.reason


def test_a_candidate_larger_than_the_memory_is_not_chosen() -> None:
    vectors = unit_rows(8_000, 64)
    nbytes = 8_000 * 64  # between the 1-bit codes and the 8-bit ones
    choice = choose(rows_of(vectors), Goal(latency_ms=1e-6, memory_bytes=nbytes))
    assert choice.chosen.nbytes <= nbytes
    assert any("more than --memory" in c.reason for c in choice.candidates)


def test_a_hundred_times_the_rows_are_predicted_to_take_longer(monkeypatch) -> None:
    readings = itertools.count()  # a clock on which any measured piece of work takes one second
    monkeypatch.setattr("indexer.ann.choose.time", SimpleNamespace(perf_counter=lambda: float(next(readings))))
    assert predicted_seconds(1_000_000, 64) > predicted_seconds(10_000, 64) > 0


class Signs:
    """An engine of another make: one sign bit a dimension, in numpy."""

    name, missing, routed, removes, error, depths = "signs", "", False, True, None, (40, 80)

    def factory(self, nlist):
        return f"signs of {nlist} lists"

    def bytes_per_vector(self, dim):
        return dim / 8 + 8

    def build(self, dim, trained):
        assert trained is None
        return {"ids": np.empty(0, np.int64), "signs": np.empty((0, dim), np.float32)}

    def widths(self, index, neighbours, target):  # noqa: ARG002 - one way only
        assert neighbours.vectors.shape[:2] == neighbours.known.shape
        return [1]

    def candidates(self, index, queries, k, width, bitmap=None):  # noqa: ARG002 - it always looks at all rows
        scores = queries.astype(np.float32) @ index["signs"].T
        if bitmap is not None:
            spots = index["ids"]
            scores[:, ~((bitmap[np.minimum(spots >> 3, len(bitmap) - 1)] >> (spots & 7)) & 1).astype(bool)] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(scores, order, 1)
        return scores, np.where(scores > -np.inf, index["ids"][order], -1)

    def add(self, index, blocks):
        for ids, vectors in blocks:
            index["ids"] = np.concatenate([index["ids"], ids])
            index["signs"] = np.concatenate([index["signs"], np.sign(vectors)])

    def remove(self, index, row_ids):
        kept = ~np.isin(index["ids"], row_ids)
        index["ids"], index["signs"] = index["ids"][kept], index["signs"][kept]

    def save(self, index, path):
        with path.open("wb") as file:
            np.savez(file, **index)

    def prove(self, path):
        with np.load(path, allow_pickle=False):
            pass

    def load(self, path, *, writable=False):  # noqa: ARG002 - always in memory
        with np.load(path, allow_pickle=False) as file:
            return dict(file)


def test_an_engine_of_another_make_is_built_tuned_searched_and_refreshed_by_its_protocol_alone(tmp_path, monkeypatch):
    engine = Signs()
    monkeypatch.setattr(choose_module, "CANDIDATES", (*CANDIDATES, engine))
    monkeypatch.setitem(ENGINES, "signs", engine)
    vectors = unit_rows(1_200, 32)
    store = make_table(tmp_path, vectors[:1_000])
    report = build_index(store, Goal(kind="signs", recall=0.9))
    assert (report.manifest.kind, report.manifest.factory) == ("signs", "signs of 0 lists")
    add_shard(store, "more", [f"k{i}" for i in range(1_000, 1_200)], vectors[1_000:])
    assert refresh_index(store).action == "refreshed"
    queries = unit_rows(60, 32, seed=3).astype(np.float32)
    expected = nearest_keys(queries, [f"k{i}" for i in range(1_200)], vectors, 10)
    found = Searcher(store).by_vector(queries, SearchOptions(k=10))
    right = sum(len(set(keys_of(f)) & set(e)) for f, e in zip(found, expected, strict=True)) / 600
    assert right >= report.manifest.measured.recall_at_10 - 0.1
    assert [hit.score for hit in found[0]] == sorted((hit.score for hit in found[0]), reverse=True)
