"""Indexes tuned and measured on queries that the user gives: `build-ann --queries`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from indexer.ann.manifest import WITH_QUERIES, read_manifest
from indexer.search.answer import answer
from indexer.search.queries import Query
from indexer.search.searcher import Searcher
from indexer.store.table import EmbeddingStore
from tests.commands import call
from tests.tables import add_shard, keys_of, make_table, nearest_keys, unit_rows

N, DIM = 20_000, 32
VECTORS = unit_rows(N, DIM, clusters=500, spread=0.3)
KEYS = [f"k{i}" for i in range(N)]
UNLIKE = unit_rows(400, DIM, seed=7, clusters=1, spread=9).astype(np.float32)  # near no cluster


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    np.save(tmp_path / "q.npy", UNLIKE[:300])
    return make_table(tmp_path / "db", VECTORS)


def recall(store: EmbeddingStore) -> float:
    """Of queries of the given kind that the build did not see."""
    queries = UNLIKE[300:]
    found = Searcher(store).by_vector(queries)
    true = nearest_keys(queries, KEYS, VECTORS, 10)
    return float(np.mean([len(set(keys_of(f)) & set(t)) / 10 for f, t in zip(found, true, strict=True)]))


def test_queries_unlike_the_rows_reach_the_recall_only_when_they_are_given(store, tmp_path: Path) -> None:
    options = ("build-ann", store.uri, "--kind", "ivf-fp16", "--json")
    rows = call("indexer", *options).json
    assert (rows["queries"], rows["recall_at_10"] >= 0.97) == ("held-out rows", True)
    assert recall(store) < 0.9
    given = call("indexer", *options, "--queries", tmp_path / "q.npy").json
    assert given["queries"] == str(tmp_path / "q.npy")
    assert given["nprobe"] > rows["nprobe"]
    assert recall(store) >= 0.97
    assert f"on the queries {tmp_path / 'q.npy'}" in answer(Searcher(store), Query(vectors=UNLIKE[:1])).how
    health = call("indexer", "health", store.uri, "--json").json
    assert health["index"]["tuned_on"] == str(tmp_path / "q.npy")


def test_a_refresh_without_the_queries_keeps_what_they_chose_and_says_so(store, tmp_path: Path) -> None:
    built = call(
        "indexer", "build-ann", store.uri, "--kind", "ivf-fp16", "--queries", tmp_path / "q.npy", "--json"
    ).json
    for number in range(2):
        add_shard(store, f"more{number}", [f"m{number}"], VECTORS[number : number + 1])
        kept = call("indexer", "build-ann", store.uri, "--refresh", "--json").json
        assert (kept["action"], kept["nprobe"], kept["rerank"]) == ("refreshed", built["nprobe"], built["rerank"])
        assert kept["queries"] == f"{tmp_path / 'q.npy'}, before a refresh"
    assert read_manifest(store.index_directory).format == WITH_QUERIES
    add_shard(store, "again", ["again"], VECTORS[9:10])
    again = ("build-ann", store.uri, "--refresh", "--queries", tmp_path / "q.npy", "--json")
    assert call("indexer", *again).json["queries"] == str(tmp_path / "q.npy")


@pytest.mark.parametrize(("rows", "dim", "words"), [(5, DIM, "holds 5"), (50, DIM + 1, "--queries")])
def test_queries_that_are_too_few_or_of_another_length_are_refused(store, tmp_path, rows, dim, words) -> None:
    np.save(tmp_path / "bad.npy", unit_rows(rows, dim))
    done = call("indexer", "build-ann", store.uri, "--queries", tmp_path / "bad.npy")
    assert (done.code, done.out) == (1, "")
    assert words in done.err
    assert not (store.index_directory / "manifest.json").exists()


def test_exported_vectors_are_queries_too(store, tmp_path: Path) -> None:
    other = make_table(tmp_path / "other", UNLIKE[:40].astype(np.float16))
    assert call("indexer", "export", other.uri, tmp_path / "q.parquet").code == 0
    found = [
        call("indexer", "search", store.uri, "--vectors", file, "-k", 3, "--exact").out.replace(str(file), "")
        for file in (tmp_path / "q.parquet", tmp_path / "same.npy")
        if np.save(tmp_path / "same.npy", UNLIKE[:40].astype(np.float16)) is None
    ]
    assert found[0] == found[1]
    assert found[0].count("\n") == 1 + 40 * 3
    done = call("indexer", "build-ann", store.uri, "--queries", tmp_path / "q.parquet", "--json")
    assert done.json["queries"] == str(tmp_path / "q.parquet")
    for text in (b"no parquet", b""):
        (tmp_path / "bad.parquet").write_bytes(text)
        bad = call("indexer", "build-ann", store.uri, "--queries", tmp_path / "bad.parquet")
        assert bad.code == 1
        assert "a column `vector`" in bad.err
