"""Filters that go with the query: the allowed rows are far from it, near to it, or drawn at random."""

from __future__ import annotations

import numpy as np
import pytest

from indexer.ann import index as ann_index
from indexer.ann.goal import Goal
from indexer.search.answer import answer
from indexer.search.index_build import build_index
from indexer.search.options import SearchOptions
from indexer.search.queries import Query
from indexer.search.searcher import Searcher
from indexer.store.table import EmbeddingStore
from tests.tables import cosines, keys_of, make_table, unit_rows

N, DIM, ASKED = 24_000, 32, 0.98
SHARES = (0.5, 0.1, 0.01, 0.001)
VECTORS = unit_rows(N, DIM, clusters=700, spread=0.3)
QUERIES = unit_rows(2000, DIM, seed=5, clusters=700, spread=0.3).astype(np.float32)
NEAR = QUERIES[np.argsort(-cosines(QUERIES[:1], QUERIES)[0])[:24]]  # one region, from which a filter can be far
SCORES = cosines(NEAR, VECTORS)
RANK = np.argsort(np.argsort(-SCORES.mean(0)))  # 0: the row nearest to the queries
DRAWN = np.random.default_rng(0).permutation(N)
FILTERS = {"near": "rank < {}", "far": "far < {}", "random": "drawn < {}"}


@pytest.fixture(scope="module", params=["ivf-fp16", "ivf-rabitq", "ivf-rabitqlib"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    facts = [{"rank": int(r), "far": N - 1 - int(r), "drawn": int(d)} for r, d in zip(RANK, DRAWN, strict=True)]
    store = make_table(tmp_path_factory.mktemp(request.param), VECTORS, facts)
    build_index(store, Goal(kind=request.param, recall=ASKED))
    return store


@pytest.fixture(autouse=True)
def few_rows_are_not_scanned_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ann_index, "EXACT_SCAN_ROWS", 1_000)


def recall(found: list[list[str]], kept: np.ndarray) -> float:
    """Of the ten best of the kept rows."""
    best = np.argsort(-np.where(kept, SCORES, -2), axis=1)[:, :10]
    return float(np.mean([len({f"k{i}" for i in row} & set(keys)) / 10 for row, keys in zip(best, found, strict=True)]))


@pytest.mark.case("T7")
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("where", FILTERS)
def test_the_recall_asked_for_holds_under_filters_that_go_with_the_query(store, where: str, share: float) -> None:
    m = int(N * share)
    order = {"near": RANK, "far": N - 1 - RANK, "random": DRAWN}[where]
    options = SearchOptions(where=FILTERS[where].format(m))
    found = answer(Searcher(store), Query(vectors=NEAR), options)
    assert recall([keys_of(a.hits) for a in found.queries], order < m) >= ASKED
    assert "recall@10 measured" not in found.how  # that was measured without a filter
    assert "allowed rows" in found.how
    assert ("scanned exactly" in found.how) >= (m <= 1_000)


@pytest.mark.case("T7")
def test_settings_tuned_without_a_filter_would_miss_rows_far_from_the_query(store) -> None:
    """Or the test above tests nothing."""
    index = ann_index.load(store.index_directory)
    rows = ann_index.RowSet.of([index.rows.row_ids[np.flatnonzero(N - 1 - RANK < N // 2)]])
    _, ids = index.search(NEAR.astype(np.float64), 10, index.allow(rows))
    keys = [index.rows.keys(index.rows.positions(own)) for own in ids]
    assert recall(keys, N - 1 - RANK < N // 2) < 0.9


@pytest.mark.case("T7")
def test_without_a_filter_the_measured_recall_is_told(store) -> None:
    assert "recall@10 measured" in answer(Searcher(store), Query(vectors=NEAR)).how
