"""Pooled vectors of groups: equal to pandas' groupby, made anew for changed groups only, of just one version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import lance
import numpy as np
import pandas as pd
import pytest

from indexer.errors import InputError, StoreError
from indexer.groups.make import pool
from indexer.store.pooled import open_pooled, require_pooled
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from tests.commands import call
from tests.tables import add_shard, make_table, unit, unit_rows

DIM = 12


def series_of(n: int, count: int, seed: int = 1) -> list[dict[str, str | None]]:
    """Rows in no order, of `count` series; one row in ten has none."""
    rng = np.random.default_rng(seed)
    return [{"series": None if i % 10 == 7 else f"s{rng.integers(count)}"} for i in range(n)]


def truth(store: EmbeddingStore, method: str) -> pd.DataFrame:
    """Number of rows, row ids and raw pooled vector of each series, by pandas."""
    read = store.vectors(columns=["series"])
    frame = pd.DataFrame(unit(read.vectors))
    frame["series"] = read.columns.column("series").to_pylist()
    groups = frame.groupby("series")
    mean, top = groups.mean(), groups.max()
    if method == "mean+max":
        vectors = np.concatenate([mean.to_numpy(), top.to_numpy()], axis=1)
    elif method.startswith("top"):
        k = int(method[3:])
        vectors = np.stack([g.drop(columns="series").apply(lambda c: c.nlargest(k).mean()) for _, g in groups])
    else:
        vectors = {"mean": mean, "max": top}[method].to_numpy()
    ids = pd.Series(read.row_ids).groupby(frame["series"]).apply(sorted)
    return pd.DataFrame({"rows": groups.size(), "ids": ids, "vector": list(vectors)})


def stored(store: EmbeddingStore, method: str = "mean") -> pd.DataFrame:
    found = require_pooled(store, "series", method)
    rows = [row for batch in found.scan(["group", "rows", "row_ids", "vector", "length"]) for row in batch.to_pylist()]
    return pd.DataFrame(rows).set_index("group").sort_index()


def check_equal(store: EmbeddingStore, method: str = "mean") -> None:
    got, wanted = stored(store, method), truth(store, method)
    assert got.index.tolist() == wanted.index.tolist()
    assert got["rows"].tolist() == wanted["rows"].tolist()
    assert got["row_ids"].tolist() == wanted["ids"].tolist()
    raw = np.stack(got["vector"]).astype(float) * got["length"].to_numpy()[:, None]
    np.testing.assert_allclose(raw, np.stack(wanted["vector"]), atol=6e-4)
    np.testing.assert_allclose(np.linalg.norm(np.stack(got["vector"]).astype(float), axis=1), 1, atol=1e-3)


@pytest.mark.parametrize("method", ["mean", "max", "mean+max", "top3"])
def test_pooled_vectors_counts_and_row_ids_are_those_of_pandas(tmp_path, method):
    store = make_table(tmp_path / "db", unit_rows(400, DIM), series_of(400, 23))
    report = pool(store, "series", method)
    assert (report.groups, report.pooled, report.rows, report.ungrouped) == (23, 23, 360, 40)
    check_equal(store, method)


def test_room_for_few_groups_only_takes_more_passes_and_gives_the_same(tmp_path):
    store = make_table(tmp_path / "db", unit_rows(300, DIM), series_of(300, 40))
    pool(store, "series", held_bytes=2_000)
    check_equal(store)


def test_a_database_in_a_folder_named_as_pooled_vectors_are_is_written_and_pooled(tmp_path):
    store = make_table(tmp_path / "x.pooled", unit_rows(60, DIM), series_of(60, 4))
    pool(store, "series")
    check_equal(store)


def test_only_groups_with_new_changed_or_deleted_rows_are_pooled_again(tmp_path):
    store = make_table(tmp_path / "db", unit_rows(400, DIM), series_of(400, 50))
    pool(store, "series")
    before = stored(store)
    add_shard(store, "more", ["a", "b", "c"], unit_rows(3, DIM, 5), [{"series": s} for s in ("s3", "new", None)])
    with StoreWriter(store):
        rows = store._dataset
        rows.delete("series = 's4' OR key = 'k0'")  # a whole group, and one row of another
        rows.update({"series": "'s6'"}, where="key = 'k1'")  # from one group to another
    store.refresh()
    of = {row["key"]: row["series"] for row in make_rows(before, store)}
    report = pool(store, "series")
    check_equal(store)
    assert "s4" not in stored(store).index
    assert "new" in stored(store).index
    assert report.pooled <= len({"s3", "new", "s6", *of.values()}) + 2
    assert pool(store, "series").pooled == 0


def test_groups_that_lost_all_their_rows_are_gone_and_a_column_without_values_is_refused(tmp_path):
    store = make_table(tmp_path / "db", unit_rows(8, DIM), [{"series": "a"}, {"series": "b"}, *[{"site": "x"}] * 6])
    pool(store, "series")
    for key, left in (("k0", ["b"]), ("k1", [])):
        with StoreWriter(store):
            store._dataset.update({"series": "CAST(NULL AS string)"}, where=f"key = '{key}'")
        store.refresh()
        if left:
            assert pool(store, "series").pooled == 0
            assert stored(store).index.tolist() == left
            continue
        with pytest.raises(InputError, match="nothing to pool"):
            pool(store, "series")


def make_rows(before: pd.DataFrame, store: EmbeddingStore) -> list[dict[str, str]]:
    """The groups, before the change, of the rows k0 and k1, whose row ids are the first two."""
    return [
        {"key": f"k{number}", "series": name}
        for name, ids in before["row_ids"].items()
        for number in (0, 1)
        if number in ids
    ]


def test_vectors_pooled_of_an_older_version_are_refused_with_the_command_that_renews_them(tmp_path):
    store = make_table(tmp_path / "db", unit_rows(40, DIM), series_of(40, 4))
    with pytest.raises(StoreError, match=r"no vectors pooled by series. Run `indexer pool .* --by series`"):
        require_pooled(store, "series", "mean")
    pool(store, "series")
    add_shard(store, "more", ["a"], unit_rows(1, DIM, 5), [{"series": "s1"}])
    with pytest.raises(StoreError, match=r"of version \d+ of table t, which is at version \d+. Run `indexer pool"):
        require_pooled(store, "series", "mean")


def test_pooled_vectors_of_a_dropped_table_or_damaged_ones_are_made_anew(tmp_path):
    db = tmp_path / "db"
    pool(make_table(db, unit_rows(60, DIM), series_of(60, 4)), "series")
    for kind in ("lance", "shards.lance", "failures.lance"):
        shutil.rmtree(db / f"t.{kind}")
    store = make_table(db, unit_rows(60, DIM, 9), series_of(60, 4))
    assert open_pooled(store, "series", "mean") is None
    assert pool(store, "series").pooled == 4
    check_equal(store)
    for file in (db / "t.pooled" / "series.mean.lance" / "data").iterdir():
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(StoreError, match=r"pooled by series .*Run `indexer pool"):
        require_pooled(store, "series", "mean")
    assert pool(store, "series").pooled == 4
    check_equal(store)


def test_deletion_for_good_removes_pooled_vectors_and_purge_keeps_no_older_ones(tmp_path):
    db = tmp_path / "db"
    store = make_table(db, unit_rows(60, DIM), series_of(60, 4))
    pool(store, "series")
    add_shard(store, "more", ["a"], unit_rows(1, DIM, 5), [{"series": "s1"}])
    assert call("indexer", "optimize", db, "--purge").code == 0
    store.refresh()
    check_equal(store)
    assert len(lance.dataset(str(db / "t.pooled" / "series.mean.lance")).versions()) == 1
    assert len(lance.dataset(str(db / "t.lance")).versions()) == 1
    assert call("indexer", "delete", db, "--where", "series = 's1'", "--yes").code == 0
    assert not (db / "t.pooled").exists()
    assert not [tag for tag in EmbeddingStore.open(str(db)).tags() if tag.startswith("pooled")]


def test_the_command_prints_what_it_pooled_and_other_tables_of_the_folder_stay_as_they_are(tmp_path):
    db = tmp_path / "db"
    make_table(db, unit_rows(60, DIM), series_of(60, 4))
    done = call("indexer", "pool", db, "--by", "series", "--json")
    assert done.code == 0, done.err
    assert {"groups": 4, "rows": 54, "ungrouped": 6, "pooled": 4}.items() <= json.loads(done.out).items()
    assert [fact["table"] for fact in call("indexer", "info", db, "--json").json] == ["t"]


@pytest.mark.parametrize(
    ("by", "method", "words"),
    [("nix", "mean", "no such column"), ("series", "median", "no such pooling"), ("empty", "mean", "nothing to pool")],
)
def test_a_wrong_column_or_method_is_named_and_nothing_is_written(tmp_path: Path, by, method, words):
    rows = [{"series": "a", "empty": "x"}, {"series": "b"}]
    store = make_table(tmp_path / "db", unit_rows(2, DIM), rows)
    with StoreWriter(store):
        store._dataset.update({"empty": "CAST(NULL AS string)"})
    store.refresh()
    with pytest.raises(InputError, match=words):
        pool(store, by, method)
    assert not (tmp_path / "db" / "t.pooled").exists()
