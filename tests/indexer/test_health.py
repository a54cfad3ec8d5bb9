"""Health says what is wrong with a table that was made so."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from indexer.ann.goal import Goal
from indexer.ann.manifest import read_manifest
from indexer.search.index_build import build_index
from indexer.search.searcher import Searcher
from indexer.store.labelling.join import add_columns
from indexer.store.table import EmbeddingStore
from indexer.upkeep.health import HealthReport, health
from tests import tables
from tests.commands import call
from tests.tables import add_shard, keys_of, make_table, unit_rows


@pytest.fixture(autouse=True)
def trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables here count as made by trained weights, so that only what a test breaks is a problem."""
    real = tables.spec_for
    monkeypatch.setattr(tables, "spec_for", lambda dim: dataclasses.replace(real(dim), weights="imagenet"))


def problems(report: HealthReport) -> str:
    return " | ".join(report.problems)


def raw_append(store: EmbeddingStore, key: str, vector: np.ndarray) -> None:
    """A row that another program writes, past all our checks."""
    dataset = lance.dataset(f"{store.uri}/{store.name}.lance")
    row = dataset.to_table(limit=1)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vector.astype(np.float16)), len(vector))
    names = {"key": pa.array([key]), "vector": column, "content": pa.array([hashlib.sha256(key.encode()).hexdigest()])}
    for name, values in names.items():
        row = row.set_column(row.schema.get_field_index(name), row.schema.field(name), values)
    lance.write_dataset(row, dataset, mode="append")


def test_a_sound_table_and_index_have_no_problems(tmp_path: Path) -> None:
    store = make_table(tmp_path, unit_rows(800, 16))
    build_index(store, Goal(kind="ivf-fp16", recall=1))
    report = health(store)
    assert report.problems == []
    assert (report.rows, report.shards, report.failures) == (800, 1, 0)
    assert report.index is not None
    assert (report.index.rows_in_index, report.index.rows_not_in_index, report.index.rows_gone) == (800, 0, 0)
    assert report.index.recall_at_10 == pytest.approx(1, abs=0.005)
    rows = unit_rows(800, 16).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    products = rows @ rows.T
    assert report.mean_cosine == pytest.approx((products.sum() - 800) / (800 * 799), abs=1e-4)


def test_rows_outside_the_index_are_counted(tmp_path: Path) -> None:
    store = make_table(tmp_path, unit_rows(300, 16))
    build_index(store, Goal(kind="ivf-fp16"))
    add_shard(store, "more", ["a", "b"], unit_rows(2, 16, seed=4))
    lance.dataset(f"{store.uri}/t.lance").delete("key IN ('k1', 'k2', 'k3')")
    report = health(store)
    assert report.index is not None
    assert (report.index.rows_in_index, report.index.rows_not_in_index, report.index.rows_gone) == (297, 2, 3)
    assert "--refresh" in problems(report)


def test_an_index_that_misses_neighbours_is_told_by_its_measured_recall(tmp_path: Path) -> None:
    store = make_table(tmp_path, unit_rows(1500, 32, clusters=1, spread=5))
    build_index(store, Goal(kind="ivf-fp16"))
    path = store.index_directory / "manifest.json"
    manifest = read_manifest(store.index_directory)
    assert manifest is not None
    spoilt = dataclasses.replace(manifest, settings=dataclasses.replace(manifest.settings, nprobe=1))
    path.write_text(spoilt.to_json())
    report = health(store)
    assert report.index is not None
    assert report.index.recall_at_10 < 0.9
    assert "recall@10 is" in problems(report)


def test_an_altered_index_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    store = make_table(tmp_path, unit_rows(300, 16))
    build_index(store, Goal(kind="ivf-fp16"))
    with (store.index_directory / "index.faiss").open("r+b") as stream:
        stream.seek(100)
        stream.write(b"xxxx")
    assert "was altered" in problems(health(store))


def test_a_collapsed_encoder_is_reported(tmp_path: Path) -> None:
    store = make_table(tmp_path, unit_rows(300, 16, clusters=1, spread=0.01))
    report = health(store)
    assert report.mean_cosine is not None
    assert report.mean_cosine > 0.995
    assert "collapsed" in problems(report)


def test_rows_that_another_program_broke_are_counted(tmp_path: Path) -> None:
    store = make_table(tmp_path, unit_rows(50, 8))
    raw_append(store, "zero", np.zeros(8))
    raw_append(store, "nan", np.full(8, np.nan))
    raw_append(store, "long", np.full(8, 3.0))
    raw_append(store, "k1", unit_rows(1, 8)[0])
    report = health(store)
    assert (report.zero_or_not_finite, report.not_unit, report.duplicate_keys) == (2, 1, 1)
    for words in ("2 rows have a zero", "1 rows are not of length 1", "1 rows repeat a key"):
        assert words in problems(report)


def test_no_search_ever_finds_a_row_that_is_no_direction(tmp_path: Path) -> None:
    store = make_table(tmp_path, unit_rows(50, 8))
    raw_append(store, "nan", np.full(8, np.nan))
    (hits,) = Searcher(store).by_vector(unit_rows(1, 8).astype(np.float32))
    assert len(hits) == 10
    assert "nan" not in keys_of(hits)
    assert all(np.isfinite(hit.score) for hit in hits)


def test_equal_image_bytes_are_counted(tmp_path: Path) -> None:
    store = make_table(tmp_path, unit_rows(50, 8))
    add_shard(store, "copies", ["a", "b", "c"], unit_rows(3, 8, seed=2), contents=["same", "same", "same"])
    assert health(store).duplicate_content == 2


def test_random_weights_are_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert "random" in problems(health(make_table(tmp_path, unit_rows(50, 8))))


def test_an_empty_table_is_a_problem(tmp_path: Path) -> None:
    report = health(make_table(tmp_path, unit_rows(0, 8)))
    assert report.rows == 0
    assert report.mean_cosine is None
    assert "no rows" in problems(report)


def test_strict_exits_1_only_where_something_is_wrong(tmp_path: Path) -> None:
    store = make_table(tmp_path / "good", unit_rows(300, 16))
    assert call("indexer", "health", store.uri, "--strict").code == 0
    bad = make_table(tmp_path / "bad", unit_rows(300, 16, clusters=1, spread=0.01))
    done = call("indexer", "health", bad.uri, "--strict", "--json")
    assert done.code == 1
    assert len(done.json["problems"]) == 1
    assert call("indexer", "health", bad.uri).code == 0


def test_optimize_merges_fragments_and_keeps_the_index_valid(tmp_path: Path) -> None:
    store = make_table(tmp_path, unit_rows(100, 8))
    for i in range(6):
        add_shard(store, f"s{i}", [f"n{i}"], unit_rows(1, 8, seed=i + 20))
    build_index(store, Goal(kind="ivf-fp16"))
    before = keys_of(Searcher(store).by_key(["k5"])[0])
    report = call("indexer", "optimize", store.uri, "--json").json
    assert (report["fragments_before"], report["fragments"], report["rows"]) == (7, 1, 106)
    store.refresh()
    assert keys_of(Searcher(store).by_key(["k5"])[0]) == before
    assert health(store).problems == []


def test_a_shard_of_which_a_stopped_run_stored_a_part_is_told(tmp_path):
    from indexer.store.writer import StoreWriter
    from indexer.types import Shard, ShardResult

    store = make_table(tmp_path / "db", unit_rows(20, 8))
    assert not any("stored in part" in problem for problem in health(store).problems)
    with StoreWriter(store) as writer:
        writer.commit([ShardResult(Shard("s", "s", "1"), (), (), 0, more=True)])
    store.refresh()
    assert [problem for problem in health(store).problems if "1 shards are stored in part" in problem]


@pytest.mark.case("X6")
def test_a_damaged_older_version_is_reported_and_optimize_drops_it(tmp_path: Path) -> None:
    store = make_table(tmp_path, unit_rows(40, 8))
    for value in (1, 2):
        add_columns(store, pa.table({"key": ["k1"], "a": [value]}))
    newest, older = sorted((tmp_path / "t.lance" / "_versions").glob("*.manifest"))[:2]
    older.write_bytes(b"")
    done = call("indexer", "health", tmp_path)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert call("indexer", "search", tmp_path, "--key", "k1").code == 0
    assert call("indexer", "optimize", tmp_path).code == 0
    assert not older.exists()
    assert call("indexer", "health", tmp_path).code == 0
    assert newest.exists()


@pytest.mark.case("X6")
@pytest.mark.parametrize("name", ["t.faiss/manifest.json", "t.lance/_refs/tags/*.json"])
def test_a_folder_in_the_place_of_a_file_is_one_line(tmp_path: Path, name: str) -> None:
    build_index(make_table(tmp_path, unit_rows(60, 8)), Goal(kind="exact"))
    (file,) = tmp_path.glob(name)
    file.unlink()
    file.mkdir()
    done = call("indexer", "search", tmp_path, "--key", "k1")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "s a directory" in done.err
