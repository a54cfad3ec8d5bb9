"""Scores and ranks are those of the cosine in float64: stored float16 rows are of length 1 to 5e-4 only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.ann import exact, rerank
from indexer.ann.goal import Goal
from indexer.ann.half import finite_float32, to_float32
from indexer.ann.vectors import Rows
from indexer.duplicates.find import find_near_duplicates
from indexer.duplicates.options import NearOptions
from indexer.search.index_build import build_index
from indexer.search.options import SearchOptions
from indexer.search.searcher import Searcher
from indexer.store.table import EmbeddingStore
from tests.commands import call
from tests.tables import add_shard, cosines, keys_of, make_table, unit, unit_rows

N, DIM = 3000, 64


def collapsed(n: int = N, dim: int = DIM, seed: int = 0) -> np.ndarray:
    """Rows so near to each other that the rounding of their lengths outweighs their differences."""
    rng = np.random.default_rng(seed)
    rows = np.random.default_rng(99).standard_normal(dim) + 0.01 * rng.standard_normal((n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def ranked(queries: np.ndarray, vectors: np.ndarray, k: int) -> list[list[str]]:
    """Keys by cosine in float64, equal ones by row id."""
    scores = np.round(cosines(queries, vectors), 12)
    return [[f"k{i}" for i in np.lexsort((np.arange(len(row)), -row))[:k]] for row in scores]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    return make_table(tmp_path_factory.mktemp("collapsed"), collapsed())


@pytest.fixture(params=["held", "streamed", "exact index", "exact index of many queries"])
def searcher(request: pytest.FixtureRequest, store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch) -> Searcher:
    if "index" in request.param:
        build_index(store, Goal(kind="exact"))
        return Searcher(store)
    return Searcher(store, exact=True, memory_bytes=0 if request.param == "streamed" else 1 << 30)


@pytest.mark.case("T3", "M1")
@pytest.mark.parametrize("count", [3, 200])
def test_a_collapsed_encoders_rows_are_ranked_as_float64_ranks_them(searcher: Searcher, count: int) -> None:
    queries = collapsed(count, seed=1).astype(np.float32)
    found = searcher.by_vector(queries)
    assert [keys_of(hits) for hits in found] == ranked(queries, collapsed(), 10)
    scores = cosines(queries, collapsed())
    for row, hits in enumerate(found):
        for hit in hits:
            assert hit.score == pytest.approx(scores[row, int(hit.key[1:])], abs=1e-11)


@pytest.mark.case("T3", "M1")
def test_every_row_finds_itself_first_with_a_score_of_1(searcher: Searcher) -> None:
    found = searcher.by_vector(collapsed()[:500].astype(np.float32), SearchOptions(k=1, min_score=1))
    assert [keys_of(hits) for hits in found] == [[f"k{i}"] for i in range(500)]
    assert {hit.score for hits in found for hit in hits} == {1.0}


@pytest.mark.case("T3")
def test_an_exported_row_is_found_by_its_own_copy_at_min_score_1(tmp_path: Path) -> None:
    make_table(tmp_path / "db", unit_rows(200, 512, clusters=1, spread=3))
    assert call("indexer", "export", tmp_path / "db", tmp_path / "v.npy").code == 0
    options = ("--vectors", tmp_path / "v.npy", "--min-score", 1, "-k", 3, "--json")
    done = call("indexer", "search", tmp_path / "db", *options)
    assert done.code == 0, done.err
    assert [[hit["key"] for hit in answer["hits"]] for answer in done.json["queries"]] == [
        [f"k{i}"] for i in range(200)
    ]


@pytest.mark.case("T3")
def test_near_duplicates_at_threshold_1_are_all_the_exact_copies(tmp_path: Path) -> None:
    rows = unit_rows(300, 512, clusters=1, spread=3)
    store = make_table(tmp_path, rows)
    add_shard(store, "copies", [f"copy{i}" for i in range(300)], rows)
    report, pairs = find_near_duplicates(store, NearOptions(threshold=1))
    found = {(row["key_a"], row["key_b"]) for row in pairs.to_pylist()}
    assert found == {(f"k{i}", f"copy{i}") for i in range(300)}
    assert report.pairs == 300
    assert set(pairs.column("score").to_pylist()) == {1.0}


@pytest.mark.case("T3", "M1")
def test_pairs_of_a_collapsed_encoder_are_those_of_the_cosine(tmp_path: Path) -> None:
    rows = collapsed(600)
    scores = np.triu(np.round(cosines(rows, rows), 12), 1)
    bar = float(np.sort(scores.ravel())[-500])
    _, pairs = find_near_duplicates(make_table(tmp_path, rows), NearOptions(threshold=bar))
    a, b = np.nonzero(scores >= bar)
    expected = {(f"k{i}", f"k{j}") for i, j in zip(a, b, strict=True)}
    assert {(row["key_a"], row["key_b"]) for row in pairs.to_pylist()} == expected


@pytest.mark.case("M1")
@pytest.mark.parametrize("kind", ["ivf-fp16", "ivf-sq8", "ivf-rabitq", "ivf-rabitqlib", "hnsw-fp16"])
def test_an_index_of_any_kind_measures_itself_by_the_cosine(tmp_path: Path, kind: str) -> None:
    store = make_table(tmp_path, collapsed())
    report = build_index(store, Goal(kind=kind))
    queries = collapsed(300, seed=2).astype(np.float32)
    expected = ranked(queries, collapsed(), 10)
    found = [keys_of(hits) for hits in Searcher(store).by_vector(queries)]
    recall = sum(len(set(f) & set(e)) for f, e in zip(found, expected, strict=True)) / 3000
    luck = 0.12 if kind == "ivf-rabitqlib" else 0.05  # each build of rabitqlib's draws another rotation, without a seed
    assert recall >= report.manifest.measured.recall_at_10 - luck


def test_copies_beyond_a_page_are_ordered_by_row_id(tmp_path: Path) -> None:
    rows = np.concatenate([np.repeat(unit_rows(1, 32), 400, axis=0), unit_rows(100, 32, seed=1)])
    store = make_table(tmp_path, rows)
    for searcher in (Searcher(store), Searcher(store, memory_bytes=0)):
        pages = [searcher.by_vector(rows[:1], SearchOptions(k=30, offset=o))[0] for o in range(0, 400, 30)]
        assert [key for page in pages for key in keys_of(page)][:400] == [f"k{i}" for i in range(400)]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 400),
    q=st.sampled_from([1, 3, 70]),
    k=st.integers(1, 40),
    seed=st.integers(0, 10**6),
    spread=st.sampled_from([0.0, 1e-4, 1e-2, 1.0]),
    odd=st.sampled_from(["none", "long", "short", "zero", "infinite", "nan"]),
    slack=st.sampled_from([None, "measured"]),
)
def test_exact_search_ranks_any_rows_as_float64_does(n, q, k, seed, spread, odd, slack) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal(24) + spread * rng.standard_normal((n, 24))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    some = rng.random(n) < 0.2
    with np.errstate(all="ignore"):
        change = {"none": 1, "long": 3, "short": 0.2, "zero": 0, "infinite": np.inf, "nan": np.nan}[odd]
        rows[some] *= np.float16(change)
    queries = rng.standard_normal((q, 24))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "BLOCK_ROWS", 97)
        known = exact.slack_of(rows) if slack else None
        scores, ids = exact.exact_topk([(np.arange(n), rows)], queries, k, known)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    sound = np.flatnonzero(np.isfinite(lengths) & (lengths > 0))
    truth = np.round(queries @ (rows[sound].astype(np.float64) / lengths[sound, None]).T, 12)
    for i in range(q):
        best = sound[np.lexsort((sound, -truth[i]))[:k]]
        assert ids[i][ids[i] >= 0].tolist() == best.tolist()
        np.testing.assert_allclose(scores[i][ids[i] >= 0], -np.sort(-truth[i])[:k], atol=2e-12)


def test_rows_are_re_ranked_as_float64_does_whatever_stands_between_them() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    assert (finite_float32(finite).view(np.uint32) == finite.astype(np.float32).view(np.uint32)).all()
    np.testing.assert_array_equal(to_float32(every.reshape(-1, 64)), every.reshape(-1, 64).astype(np.float32))

    vectors = unit_rows(400, 64)
    queries = unit(unit_rows(30, 64, seed=3))
    for odd in (None, np.nan, np.inf, -np.inf, 0):
        changed = vectors.copy()
        if odd is not None:
            changed[::9] = odd
        with np.errstate(all="ignore"):
            rows = Rows(np.arange(400) * 2, changed, exact.slack_of(changed))
        positions = np.tile(np.arange(400), (30, 1))
        positions[:, 390:] = -1
        positions[:, 5] = -1
        ids = np.where(positions >= 0, positions * 2, -1)
        found = rerank.rank(rows, positions, queries, ids, 7)
        alone = [rerank.rank(rows, positions[i : i + 1], queries[i : i + 1], ids[i : i + 1], 7) for i in range(30)]
        scores = queries @ unit(vectors).T
        scores[:, 390:], scores[:, 5] = -2, -2
        if odd is not None:
            scores[:, ::9] = -2
        best = np.argsort(-scores, axis=1)[:, :7]
        for answer in (found, tuple(np.concatenate(parts) for parts in zip(*alone, strict=True))):
            assert (answer[1] == best * 2).all()
            np.testing.assert_allclose(answer[0], np.take_along_axis(scores, best, 1), atol=1e-11)
        few = np.array([[-1, 7, -1, 3]])  # fewer than asked for
        (nearest,) = rerank.rank(rows, few, queries[:1], np.where(few >= 0, few * 2, -1), 7)[1]
        assert nearest[nearest >= 0].tolist() == sorted([14, 6], key=lambda row_id: -scores[0, row_id // 2])
