"""`indexer map`: places against numpy, the share of neighbours kept against brute force, and a file that is bound."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from indexer.errors import IndexFileError
from indexer.mapping.files import Map, lag, map_path, read_map
from indexer.mapping.make import make_map
from indexer.mapping.options import MapOptions
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from tests.commands import call
from tests.tables import add_shard, make_table, unit, unit_rows

N, DIM = 300, 24


def ids_of(store: EmbeddingStore) -> np.ndarray:
    return np.sort(store.vectors().row_ids)


def made(store: EmbeddingStore) -> Map:
    found = read_map(store)
    assert found is not None
    return found


def units(store: EmbeddingStore) -> np.ndarray:
    """Float64 unit rows in the order of the map."""
    rows = store.vectors()
    return unit(rows.vectors[np.argsort(rows.row_ids)])


def share_kept(x: np.ndarray, places: np.ndarray, k: int = 10) -> float:
    """By sorting all distances of both spaces."""
    near = (x @ x.T) - 9 * np.eye(len(x))
    flat = -((places[:, None].astype(np.float64) - places[None].astype(np.float64)) ** 2).sum(-1) - 1e9 * np.eye(len(x))
    pairs = zip(np.argsort(-near, axis=1)[:, :k], np.argsort(-flat, axis=1)[:, :k], strict=True)
    return float(np.mean([len({*a} & {*b}) / k for a, b in pairs]))


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return make_table(tmp_path / "db", unit_rows(N, DIM))


def test_places_are_the_principal_components_of_the_unit_rows(store):
    facts = make_map(store, MapOptions())
    x = units(store)
    centred = x - x.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    right = left[:, :2] * values[:2]
    found = made(store).places
    signs = np.sign((found * right).sum(axis=0))
    np.testing.assert_allclose(found, right * signs, atol=1e-6)
    assert facts.explained == pytest.approx((values[:2] ** 2).sum() / (values**2).sum(), abs=1e-8)
    assert (facts.rows, facts.laid_out, facts.left_out) == (N, N, 0)


def test_the_share_of_neighbours_kept_is_that_of_brute_force(store):
    facts = make_map(store, MapOptions())
    assert facts.tested == N
    assert facts.neighbours_kept == pytest.approx(share_kept(units(store), made(store).places), abs=1e-3)
    assert facts.kept_by_chance == pytest.approx(10 / (N - 1))
    assert f"{100 * facts.neighbours_kept:.2g} %" in facts.worth()


def test_tsne_lays_out_a_sample_and_other_rows_lie_at_the_inverse_distance_mean_of_its_nearest(store):
    plane = make_map(store, MapOptions())
    facts = make_map(store, MapOptions("opentsne", sample=100, seed=3))
    found, x = made(store), units(store)
    chosen = np.sort(np.random.default_rng(3).choice(N, 100, replace=False))
    others = np.setdiff1d(np.arange(N), chosen)
    distance = np.linalg.norm(x[others, None] - x[None, chosen], axis=-1)
    near = np.argsort(distance, axis=1)[:, :5]
    weight = 1 / np.take_along_axis(distance, near, axis=1)
    right = (found.places[chosen][near] * weight[..., None]).sum(axis=1) / weight.sum(axis=1)[:, None]
    np.testing.assert_allclose(found.places[others], right, rtol=1e-4, atol=1e-3)
    assert facts.laid_out == 100
    assert facts.neighbours_kept == pytest.approx(share_kept(x, found.places), abs=1e-3)
    assert facts.neighbours_kept > 1.5 * plane.neighbours_kept


def test_copies_do_not_count_against_a_map(tmp_path):
    x = np.repeat(unit_rows(8, DIM), 15, axis=0)
    facts = make_map(make_table(tmp_path / "db", x), MapOptions())
    assert facts.neighbours_kept == 1.0


@pytest.mark.parametrize("n", [1, 2])
def test_a_table_of_few_rows_has_a_map(tmp_path, n):
    facts = make_map(make_table(tmp_path / "db", unit_rows(n, DIM)), MapOptions())
    assert (facts.rows, facts.neighbours_kept) == (n, None if n == 1 else 1.0)


def test_the_command_prints_what_the_map_is_worth_and_writes_a_file_that_others_can_read(store):
    run = call("indexer", "map", store.uri, "--json")
    facts = json.loads(run.out)
    table = pq.read_table(map_path(store))
    assert table.column_names == ["row_id", "x", "y"]
    assert table.column("row_id").to_pylist() == ids_of(store).tolist()
    assert facts["version"] == store.version
    plain = call("indexer", "map", store.uri)
    assert f"nearest on the map ({N} images tested; 3.3 % by chance)" in plain.out


def test_rows_that_came_went_and_were_written_again_are_said(store):
    make_map(store, MapOptions())
    assert lag(store, made(store), ids_of(store)).sentence() == ""
    add_shard(store, "second", ["new0", "new1", "new2"], unit_rows(3, DIM, seed=1))
    with StoreWriter(store) as writer:
        writer.optimize()
    store.refresh()
    behind = lag(store, made(store), ids_of(store))
    assert (behind.new, behind.gone, behind.changed) == (3, 0, 0)
    assert "3 newer rows are not on it" in behind.sentence()
    add_shard(store, "first", [f"k{i}" for i in range(N - 4)], unit_rows(N - 4, DIM, seed=2), replaces=True)
    behind = lag(store, made(store), ids_of(store))
    assert behind.gone + (behind.changed or 0) >= N - 4
    assert "indexer map" in behind.sentence()


def test_labels_written_since_leave_a_map_as_it_is(store, tmp_path):
    make_map(store, MapOptions())
    file = tmp_path / "labels.csv"
    file.write_text("key,grade\n" + "".join(f"k{i},{i % 3}\n" for i in range(N)))
    assert call("indexer", "labels", store.uri, file).code == 0
    store.refresh()
    assert len(store.delta(made(store).facts.version).updated) == N
    assert lag(store, made(store), ids_of(store)).sentence() == ""


def test_a_map_of_another_table_of_that_name_is_refused(store, tmp_path):
    make_map(store, MapOptions())
    other = make_table(tmp_path / "other", unit_rows(N, DIM))
    map_path(other).write_bytes(map_path(store).read_bytes())
    with pytest.raises(IndexFileError, match="another table of that name"):
        read_map(other)


def test_a_damaged_map_is_refused_wherever_the_damage_is(store):
    make_map(store, MapOptions())
    path = map_path(store)
    whole = path.read_bytes()
    right = made(store)
    refused = 0
    for at in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            found = made(store)
        except IndexFileError as error:
            assert "Make it again" in str(error)  # noqa: PT017 - some bytes of the file mean nothing
            refused += 1
        else:
            assert (found.row_ids == right.row_ids).all()
            assert (found.places == right.places).all()
    assert refused > 30
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IndexFileError, match="damaged"):
        read_map(store)


def test_what_cannot_be_mapped_is_said_in_one_line(store, tmp_path, monkeypatch):
    empty = make_table(tmp_path / "empty", unit_rows(0, DIM))
    assert "nothing to map" in call("indexer", "map", empty.uri).err
    few = make_table(tmp_path / "few", unit_rows(9, DIM))
    assert "needs 10 rows" in call("indexer", "map", few.uri, "--method", "opentsne").err
    assert "--sample 3" in call("indexer", "map", store.uri, "--sample", "3").err
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    assert "embedding-indexer[map]" in call("indexer", "map", store.uri, "--method", "opentsne").err
    assert read_map(store) is None


def test_deleting_images_removes_the_map(store):
    make_map(store, MapOptions())
    assert call("indexer", "delete", store.uri, "--where", "key = 'k3'", "--yes").code == 0
    assert read_map(store) is None
