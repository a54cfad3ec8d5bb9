"""The store through its public door: labels, deltas, filters, text vectors, and a million-row habit in small."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from indexer.errors import BadFilter, InputError, NewerFormat, StoreError, StoreNotFound
from indexer.store.holding import newest
from indexer.store.labelling.join import add_columns
from indexer.store.names import table_names
from indexer.store.rows import TextVectors, place_of
from indexer.store.table import EmbeddingStore
from indexer.store.text import read_text, write_text
from indexer.store.writer import StoreWriter
from indexer.store.writing.keys import KeySet, key_hashes
from indexer.types import EmbeddingBatch, EmbeddingRow, EncoderSpec, PixelSpec, Place, Shard, ShardResult
from tests.commands import call
from tests.tables import add_shard, make_table, spec_for, unit_rows

DIM = 8
SPEC = EncoderSpec("fake", "random:0", "pooled", DIM, (0.0,) * 3, (1.0,) * 3, "fp32", PixelSpec(16, 16))


def result(name, first, n, *, replaces=False, identity="1", **metadata):
    """Rows first … first+n−1 of a shard, each vector drawn from its own number."""
    vectors = np.stack([np.random.default_rng(i).normal(size=DIM) for i in range(first, first + n)]).astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1)
    rows = tuple(
        EmbeddingRow(f"k{i}", Place(name, f"k{i}.png", 512 * i, 100, "png"), f"hash{i}", {"n": i, **metadata})
        for i in range(first, first + n)
    )
    batch = EmbeddingBatch(rows, (vectors / norms[:, None]).astype(np.float16), norms)
    return ShardResult(Shard(name, name, identity), (batch,), (), n, replaces=replaces)


@pytest.fixture
def store(tmp_path):
    made = EmbeddingStore.create(str(tmp_path / "db"), "t", SPEC)
    with StoreWriter(made) as writer:
        writer.commit([result("a", 0, 30), result("b", 30, 20)])
    made.refresh()
    return made


@pytest.mark.parametrize("others", [{}, {"only here": 1}])
def test_metadata_is_kept_as_the_json_that_the_library_writes(store, others):
    """Of rows with the same fields, which are written column by column, and of others."""
    odd = {
        "50 %s": 'a "b" \\ \n \x01 ü 漢', "z": 2**70, "b": True, "none": None, "x": -0.0, "y": 1e300,
        "list": [1, {"a": "%d"}],
    }  # fmt: skip
    with StoreWriter(store) as writer:
        writer.commit([result("c", 50, 2, **odd), result("d", 52, 1, **{**odd, "z": "text", "b": 1.5}, **others)])
    store.refresh()
    rows = [row for batch in store.scan(["key", "meta"], "key >= 'k50'") for row in batch.to_pylist()]
    expected = {f"k{n}": {"n": n, **odd} for n in (50, 51)} | {"k52": {"n": 52, **odd, "z": "text", "b": 1.5, **others}}
    texts = {key: json.dumps(fields, ensure_ascii=False, sort_keys=True) for key, fields in expected.items()}
    assert {row["key"]: row["meta"] for row in rows if row["key"] in texts} == texts


def test_take_gives_rows_in_the_order_asked_and_masks_those_that_are_gone(store):
    ids = store.vectors(columns=["key"]).row_ids
    with StoreWriter(store) as writer:
        writer.commit([result("a", 0, 3, replaces=True, identity="2")])
    store.refresh()
    asked = np.array([ids[45], ids[2], 10**9, ids[31], ids[45]])
    found, table = store.take(asked, ["key", "n"])
    assert found.tolist() == [True, False, False, True, True]
    assert table.column("key").to_pylist() == ["k45", "k31", "k45"]
    assert table.column("_rowid").to_pylist() == [ids[45], ids[31], ids[45]]


def test_vectors_and_scan_agree_with_what_was_written(store):
    got = store.vectors("n >= 10 AND n < 35", ["key", "n"])
    assert got.vectors.dtype == np.float16
    for i, n in enumerate(got.columns.column("n").to_pylist()):
        raw = np.random.default_rng(n).normal(size=DIM)
        np.testing.assert_allclose(got.vectors[i], raw / np.linalg.norm(raw), atol=1e-3)
    scanned = [r for b in store.scan(["n"], "n >= 10 AND n < 35", batch_rows=7) for r in b.to_pylist()]
    assert [r["n"] for r in scanned] == list(range(10, 35))
    assert [r["_rowid"] for r in scanned] == got.row_ids.tolist()


def test_a_held_store_sees_later_commits_only_after_refresh_and_an_old_version_stays_readable(store):
    before = store.version
    with StoreWriter(EmbeddingStore.open(store.uri)) as writer:
        writer.commit([result("c", 50, 5)])
    assert store.count() == 50
    assert store.refresh() > before
    assert (store.count(), store.at(before).count()) == (55, 50)
    with pytest.raises(StoreError, match="version 999"):
        store.at(999)


@pytest.mark.parametrize("seconds", [-1.0, 1e9], ids=["settled", "new"])
def test_a_commit_of_another_is_seen_at_once_also_where_the_folder_of_versions_was_not_listed(
    store, monkeypatch, seconds
):
    monkeypatch.setattr(newest, "SETTLED_SECONDS", seconds)
    held, other = EmbeddingStore.open(store.uri), EmbeddingStore.open(store.uri)
    older = held.at(store.version)
    for first in (50, 60, 70):
        known = held.refresh()
        assert held.refresh() == known
        with StoreWriter(other) as writer:
            writer.commit([result(f"s{first}", first, 5)])
        assert held.refresh() > known
        assert held.count() == 50 + 5 * (first - 40) // 10
    assert (older.version, older.refresh()) == (store.version, held.version)


def test_delta_names_inserted_and_deleted_rows(store):
    since = store.version
    old = {r["key"]: r["_rowid"] for b in store.scan(["key"], "shard = 'a'") for r in b.to_pylist()}
    with StoreWriter(store) as writer:
        writer.commit([result("c", 50, 5)])
        writer.commit([result("a", 100, 2, replaces=True, identity="2")])
    store.refresh()
    delta = store.delta(since)
    new = {r["_rowid"] for b in store.scan([], "shard IN ('a', 'c')") for r in b.to_pylist()}
    assert set(delta.inserted.tolist()) == new
    assert set(delta.deleted.tolist()) == set(old.values())
    with pytest.raises(StoreError):
        store.delta(999)


def test_row_ids_outlive_compaction_and_label_imports(store):
    with StoreWriter(store) as writer:
        for i in range(12):
            writer.commit([result(f"s{i}", 100 + i, 1)])
        before = dict(zip(*(store_keys := keys_and_ids(store)), strict=True))
        assert store_keys
        writer.tidy()
    assert store.fragments() < 3
    add_columns(store, pa.table({"key": ["k1"], "grade": [3]}))
    assert dict(zip(*keys_and_ids(store), strict=True)) == before


def keys_and_ids(store):
    rows = store.vectors(columns=["key"])
    return rows.columns.column("key").to_pylist(), rows.row_ids.tolist()


def test_threads_read_while_another_refreshes_and_each_sees_one_whole_version(tmp_path):
    """One store, as a search service holds it: every read is of one version, and none fails."""
    made = EmbeddingStore.create(str(tmp_path / "db"), "t", SPEC)
    with StoreWriter(made) as writer:
        writer.commit([result("s0", 0, 10)])
    shared = EmbeddingStore.open(made.uri)
    stop, errors = threading.Event(), []

    def until_stopped(work):
        try:
            while not stop.is_set():
                work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test is to show it
            errors.append(error)

    def read():
        rows = shared.vectors(columns=["key"])
        assert len(rows.row_ids) % 10 == 0
        assert len(rows.row_ids) == shared.at(rows.version).count()
        found, _ = shared.take(rows.row_ids[:3], ["key"])
        assert found.all()

    threads = [threading.Thread(target=until_stopped, args=(work,)) for work in (read, read, shared.refresh)]
    threads += [threading.Thread(target=until_stopped, args=(lambda: shared.tag("now", shared.version),))]
    for thread in threads:
        thread.start()
    for i in range(1, 16):
        with StoreWriter(made) as writer:
            writer.commit([result(f"s{i}", 10 * i, 10)])
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    shared.refresh()
    assert shared.count() == 160


@pytest.mark.case("T4")
@pytest.mark.parametrize(
    ("where", "python"),
    [
        ("\"Sex\" != 'M'", lambda row: row["Sex"] != "M"),
        ('"Sex" = \'M\' AND "n" < 9', lambda row: row["Sex"] == "M" and row["n"] < 9),
        ('"note" = \'say "no"\'', lambda row: row["note"] == 'say "no"'),
        ("note = '\"Sex\"'", lambda row: row["note"] == '"Sex"'),
        ('"order" IS NOT NULL', lambda row: row["order"] is not None),
        ("`Sex` <> 'M' OR \"order\" = 3", lambda row: row["Sex"] != "M" or row["order"] == 3),
    ],
)
def test_double_quotes_name_columns_and_single_quotes_texts(tmp_path, where, python):
    metadata = [
        {"n": i, "Sex": "MF"[i % 2], "order": i if i % 3 else None, "note": ('say "no"', '"Sex"', "-")[i % 3]}
        for i in range(40)
    ]
    store = make_table(tmp_path, unit_rows(40, 8), metadata)
    found = store.vectors(where, ["n"]).columns.column("n").to_pylist()
    assert sorted(found) == [row["n"] for row in metadata if python(row)]


@pytest.mark.case("T4")
@pytest.mark.parametrize("where", ["\"nocolumn\" != 'x'", 'n = "F"', '"" = 1', '"a`b" = 1', '"n = 1'])
def test_a_double_quoted_name_that_is_no_column_is_refused(store, where):
    with pytest.raises(BadFilter, match="--where"):
        store.count(where)


TAKEN = ["_rowid", "_rowaddr", "_rowoffset", "_row_created_at_version", "_row_last_updated_at_version", "_RowId"]
TAKEN += ["key", "vector", "part", "part_z"]


@pytest.mark.case("T1")
@pytest.mark.parametrize("name", TAKEN)
def test_no_label_and_no_metadata_field_makes_a_column_of_a_taken_name(store, name):
    labels = {"key": pa.array(["k1"]), name: pa.array([1])} if name != "key" else {"n": pa.array([1]), "key": ["k1"]}
    with pytest.raises(InputError, match="name is taken"):
        add_columns(store, pa.table(labels), on="n" if name == "key" else "key")
    before = set(store.columns())
    with StoreWriter(store) as writer:
        told = writer.commit([result("c", 50, 5, **{name: 7})])
    store.refresh()
    assert set(store.columns()) == before
    assert told.columns_skipped == {f"{name}: name is taken by the table": 5}
    assert store.count() == 55


@pytest.mark.case("T4")
@pytest.mark.parametrize("name", ["null", "True", "FALSE", "current_date", "Current_Timestamp"])
def test_no_column_has_a_name_that_a_filter_reads_as_a_value(store, name):
    with pytest.raises(InputError, match="SQL reads it as a value"):
        add_columns(store, pa.table({"key": ["k1"], name: [1]}))
    with StoreWriter(store) as writer:
        told = writer.commit([result("c", 50, 5, **{name: 7})])
    assert told.columns_skipped == {f"{name}: SQL reads it as a value": 5}


@pytest.mark.case("T1")
@pytest.mark.parametrize("name", TAKEN[:5])
def test_a_table_with_a_column_by_a_name_of_lances_is_reported_and_mended(store, name):
    """As an older version let `labels` make: Lance can then scan no row of the table."""
    dataset = lance.dataset(f"{store.uri}/t.lance")
    dataset.delete("key = 'k3'")  # a deletion file is read only where Lance can scan
    keys = [f"k{i}" for i in range(50) if i != 3]
    dataset.merge(pa.table({"key": keys, name: list(range(49))}), left_on="key", right_on="key")
    done = call("indexer", "search", store.uri, "--key", "k7")
    assert (done.code, done.err.count("\n"), "indexer optimize" in done.err) == (1, 1, True)
    report = call("indexer", "health", store.uri, "--json").json
    assert [name in problem and "indexer optimize" in problem for problem in report["problems"]] == [True]
    assert call("indexer", "optimize", store.uri, "--json").json["renamed"] == {name: f"own{name}"}
    rows = EmbeddingStore.open(store.uri).vectors(columns=["key", f"own{name}"]).columns.to_pydict()
    assert dict(zip(rows["key"], rows[f"own{name}"], strict=True)) == {key: i for i, key in enumerate(keys)}


@pytest.mark.parametrize("where", ["nope = 1", "n = ", "n = '", "SELECT 1", "n = 1 UNION SELECT 2", "drop table t"])
def test_a_filter_that_cannot_hold_is_a_bad_filter(store, where):
    with pytest.raises(BadFilter, match="--where"):
        store.count(where)
    with pytest.raises(BadFilter):
        list(store.scan(["key"], where))


def test_labels_must_name_rows_once_and_by_plain_names(store):
    for labels in (
        pa.table({"key": ["k1", "k1"], "x": [1, 2]}),
        pa.table({"key": ["k1"], "vector": [1]}),
        pa.table({"key": ["k1"], "a b": [1]}),
    ):
        with pytest.raises(InputError):
            add_columns(store, labels)


def test_text_vectors_come_back_by_task_and_a_task_is_replaced_whole(store):
    eye = np.eye(DIM, dtype=np.float32)
    write_text(store, "lesion", TextVectors(("a", "b"), eye[:2], 100.0, None))
    write_text(store, "site", TextVectors(("x",), eye[:1], 10.0, -3.0))
    write_text(store, "lesion", TextVectors(("c",), eye[2:3], 50.0, None))
    lesion, site = read_text(store, "lesion"), read_text(store, "site")
    assert (lesion.classes, lesion.logit_scale, lesion.logit_bias) == (("c",), 50.0, None)
    np.testing.assert_array_equal(lesion.vectors, eye[2:3])
    assert (site.classes, site.logit_bias) == (("x",), -3.0)
    assert table_names(store.uri) == ["t"]
    with pytest.raises(StoreError, match="indexer text"):
        read_text(store, "nope")
    with pytest.raises(InputError):
        write_text(store, "t", TextVectors(("a",), eye[:2], 1.0, None))


def test_class_text_is_stored_beside_a_table_that_is_named_by_an_address(tmp_path):
    store = EmbeddingStore.create(f"file://{tmp_path}/db", "t", spec_for(4))
    write_text(store, "lesion", TextVectors(("a", "b"), np.eye(4, dtype=np.float32)[:2], 100.0, None))
    assert read_text(store, "lesion").classes == ("a", "b")


def test_a_mistyped_database_is_named_and_creates_nothing(store, tmp_path):
    with pytest.raises(StoreNotFound, match="typo"):
        EmbeddingStore.open(str(tmp_path / "typo"))
    assert not (tmp_path / "typo").exists()


def test_a_table_of_a_newer_format_is_refused(store):
    import json

    dataset = store._dataset
    facts = json.loads(dataset.schema.metadata[b"embedding-indexer"])
    dataset.update_schema_metadata({"embedding-indexer": json.dumps(facts | {"format": 99})})
    with pytest.raises(NewerFormat, match="format 99"):
        EmbeddingStore.open(store.uri)


def test_a_row_says_where_its_image_lies(store):
    _, rows = store.take(store.vectors("key = 'k3'").row_ids, ["shard", "member", "offset", "nbytes", "suffix", "part"])
    assert place_of({k: v for k, v in rows.to_pylist()[0].items() if k != "_rowid"}) == Place(
        "a", "k3.png", 1536, 100, "png", ""
    )


def test_many_small_commits_leave_few_fragments(tmp_path):
    made = EmbeddingStore.create(str(tmp_path / "db"), "t", SPEC)
    with StoreWriter(made) as writer:
        for i in range(150):
            writer.commit([result(f"s{i}", i, 1)])
            writer.tidy_when_due()
        most = made.fragments()
        writer.tidy()
    assert most < 100
    assert made.fragments() < 10
    assert made.count() == 150
    assert made.ledger().num_rows == 150


def test_key_sets_suspect_every_known_or_repeated_key_and_forget_what_is_discarded():
    keys = KeySet()
    for part in range(0, 250, 10):  # many small runs, merged again and again
        keys.add(f"a{i}" for i in range(part, part + 10))
    keys.add(f"b{i}" for i in range(30))
    assert keys.suspects(["a7", "a249", "b3", "new", "twice", "twice"]) == {"a7", "a249", "b3", "twice"}
    keys.discard(key_hashes(["a7", "b3"]))
    assert keys.suspects(["a7", "a8", "b3", "b4"]) == {"a8", "b4"}


def test_a_detached_version_that_a_killed_import_of_labels_left_is_no_version(store, tmp_path):
    versions, held = store.path / "_versions", store.version
    (versions / "d9861904407345691503.manifest").write_bytes(b"")  # as long as the others' names
    (versions / f"{2**64 - 1 - held:020d}.manifest").write_bytes(b"")  # cut by a power failure
    again = EmbeddingStore.create(str(tmp_path / "db"), "t", SPEC)
    with StoreWriter(again) as writer:
        assert writer.store.version != held
        assert not writer.entries  # both shards came with that version
        writer.commit([result("a", 0, 30), result("b", 30, 20)])
    again.refresh()
    assert again.count() == 50


def test_a_held_version_that_was_cleaned_up_is_read_from_the_files_that_newer_ones_share(store):
    keys = sorted(key for batch in store.scan(["key"]) for key in batch.column("key").to_pylist())
    add_shard(EmbeddingStore.open(store.uri), "later", ["late"], unit_rows(1, store.dim))
    newest = lance.dataset(str(Path(store.uri) / f"{store.name}.lance"))
    newest.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
    with pytest.raises(StoreError, match="gone"):
        EmbeddingStore.open(store.uri).at(store.version)
    assert sorted(key for batch in store.scan(["key"]) for key in batch.column("key").to_pylist()) == keys
