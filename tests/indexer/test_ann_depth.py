"""Searches for more hits than an index was tuned for, and those that exclude the nearest rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from indexer.ann.goal import Goal
from indexer.ann.manifest import read_manifest
from indexer.search.answer import answer
from indexer.search.index_build import build_index
from indexer.search.options import SearchOptions
from indexer.search.queries import Query
from indexer.search.searcher import Searcher
from indexer.store.table import EmbeddingStore
from tests.tables import keys_of, make_table, nearest_keys, unit_rows

DIM = 24


def built(folder: Path, vectors: np.ndarray, metadata=None) -> EmbeddingStore:
    store = make_table(folder, vectors, metadata)
    build_index(store, Goal(kind="ivf-fp16", recall=0.95))
    assert read_manifest(store.index_directory).settings.nprobe < read_manifest(store.index_directory).nlist
    return store


@pytest.mark.parametrize("k", [20, 40, 100, 500])
def test_as_large_a_share_of_many_hits_is_found_as_of_ten(tmp_path: Path, k: int) -> None:
    vectors = unit_rows(20_000, DIM, clusters=1, spread=2)
    queries = unit_rows(60, DIM, seed=5, clusters=1, spread=2).astype(np.float32)
    searcher = Searcher(built(tmp_path, vectors))
    keys = [f"k{i}" for i in range(len(vectors))]

    def recall(k: int) -> float:
        found = searcher.by_vector(queries, SearchOptions(k=k))
        true = nearest_keys(queries, keys, vectors, k)
        return float(np.mean([len(set(keys_of(f)) & set(t)) / k for f, t in zip(found, true, strict=True)]))

    assert recall(k) >= recall(10)


def test_rows_behind_those_that_are_excluded_are_found(tmp_path: Path) -> None:
    """All of the nearest rows are of the query's own class, as of one organ."""
    vectors = unit_rows(1_200, DIM, clusters=10, spread=0.3)
    nearest_centre = np.random.default_rng(99).standard_normal((10, DIM))
    classes = (vectors.astype(np.float64) @ nearest_centre.T).argmax(1)
    searcher = Searcher(built(tmp_path, vectors, [{"organ": str(c)} for c in classes]))
    found = true = 0
    for row in range(0, 1_200, 40):
        query = Query(keys=(f"k{row}",))
        result = answer(searcher, query, SearchOptions(k=5, exclude_same="organ"))
        scores = np.where(classes == classes[row], -2, (vectors.astype(np.float64) @ vectors[row].astype(np.float64)))
        wanted = {f"k{i}" for i in np.argsort(-scores)[:5]}
        found += len({hit.key for hit in result.queries[0].hits} & wanted)
        true += 5
    assert found / true > 0.95
