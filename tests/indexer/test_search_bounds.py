"""One snapshot a result; memory that does not grow with the table; pages, exclusions and files that hold together."""

from __future__ import annotations

import datetime
import decimal
import os
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pv
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.ann import files, verified
from indexer.ann.files import vector_paths
from indexer.ann.goal import Goal, GoalChange
from indexer.ann.manifest import FileFact, read_manifest
from indexer.ann.rowset import RowSet
from indexer.ann.vectors import VectorFile, VectorPaths, write_vectors
from indexer.errors import IndexFileError, InputError
from indexer.search import snapshot as snapshot_module
from indexer.search.answer import answer
from indexer.search.index_build import build_index, refresh_index
from indexer.search.options import SearchOptions
from indexer.search.queries import Query
from indexer.search.searcher import Searcher
from indexer.search.snapshot import Snapshot
from indexer.store.table import EmbeddingStore
from indexer.upkeep.health import health
from tests.commands import call
from tests.memory import least_peak, peak_memory
from tests.tables import add_shard, keys_of, make_table, nearest_keys, unit_rows

VECTORS = unit_rows(600, 16)
KEYS = [f"k{i}" for i in range(600)]


# --- one snapshot


@pytest.mark.parametrize("ask", ["keys", "vectors"])
def test_a_result_names_the_version_that_was_searched_though_rows_came_meanwhile(tmp_path, monkeypatch, ask) -> None:
    store = make_table(tmp_path, VECTORS[:300])
    searched = store.version
    real = Snapshot.search

    def overtaken(self: Snapshot, *arguments: object, **named: object) -> object:
        found = real(self, *arguments, **named)
        if store.version == searched:
            add_shard(store, "first", KEYS[300:310], VECTORS[300:310], replaces=True)  # every row found is deleted
        return found

    monkeypatch.setattr(Snapshot, "search", overtaken)
    query = Query(keys=("k1",)) if ask == "keys" else Query(vectors=VECTORS[:2].astype(np.float32))
    result = answer(Searcher(EmbeddingStore.open(store.uri)), query, SearchOptions(k=5), pictures=True)
    assert store.version > searched
    assert result.version == searched
    assert f"table version {searched}" in result.how
    for hit in (hit for found in result.queries for hit in found.hits):
        exists, rows = store.at(result.version).take(np.array([hit.row_id]), ["key"])
        assert exists.all()
        assert rows.column("key").to_pylist() == [hit.key]
        assert result.pictures is not None
        assert "gone" not in result.pictures.hits[hit.row_id].missing


def test_a_query_is_of_one_kind(tmp_path: Path) -> None:
    for wrong in ({}, {"keys": ("a",), "texts": ("b",)}):
        with pytest.raises(InputError, match="either keys, images, texts, vectors, examples or groups"):
            Query(**wrong)


# --- a refresh keeps its goal


def test_a_refresh_that_rebuilds_keeps_recall_latency_and_kind(tmp_path: Path) -> None:
    store = make_table(tmp_path, VECTORS[:300])
    build_index(store, Goal(recall=0.999, latency_ms=7.5, kind="hnsw-fp16"))
    add_shard(store, "second", KEYS[300:420], VECTORS[300:420])
    done = call("indexer", "build-ann", store.uri, "--refresh", "--json")
    assert done.code == 0, done.err
    facts = {name: done.json[name] for name in ("action", "kind", "kind_asked", "recall_target", "latency_ms", "rows")}
    assert facts == {
        "action": "rebuilt", "kind": "hnsw-fp16", "kind_asked": "hnsw-fp16", "recall_target": 0.999, "latency_ms": 7.5,
        "rows": 420,
    }  # fmt: skip


def test_a_refresh_by_what_changed_keeps_the_goal_for_the_next_one(tmp_path: Path) -> None:
    store = make_table(tmp_path, VECTORS[:300])
    build_index(store, Goal(recall=0.9, kind="ivf-sq8"))
    add_shard(store, "second", KEYS[300:310], VECTORS[300:310])
    assert refresh_index(store).action == "refreshed"
    add_shard(store, "third", KEYS[310:500], VECTORS[310:500])
    report = refresh_index(store)
    assert (report.action, report.manifest.kind, report.manifest.recall_target) == ("rebuilt", "ivf-sq8", 0.9)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("--recall", 0.9, "recall 0.98 → 0.9"), ("--kind", "ivf-fp16", "kind ivf-sq8 → ivf-fp16"),
     ("--latency-ms", 3, "latency-ms 5.0 → 3.0")],
)  # fmt: skip
def test_another_goal_beside_refresh_takes_effect_and_is_said(tmp_path, option, value, words) -> None:
    store = make_table(tmp_path, VECTORS[:300])
    build_index(store, Goal(kind="ivf-sq8"))
    done = call("indexer", "build-ann", store.uri, "--refresh", option, value, "--json")
    assert done.code == 0, done.err
    assert done.json["action"] == "rebuilt"
    assert words in done.json["why"]
    assert value in (done.json["recall_target"], done.json["kind"], done.json["latency_ms"])
    assert call("indexer", "build-ann", store.uri, "--refresh", option, value, "--json").json["action"] == "unchanged"


# --- bounded memory


@pytest.fixture
def lagging(tmp_path: Path) -> tuple[EmbeddingStore, np.ndarray]:
    """An index of 500 rows and 20,000 newer ones, 10 MB of vectors."""
    vectors = unit_rows(20_500, 256, clusters=200)
    store = make_table(tmp_path, vectors[:500])
    build_index(store, Goal(kind="ivf-fp16"))
    add_shard(store, "newer", [f"k{i}" for i in range(500, 20_500)], vectors[500:])
    return store, vectors


def test_rows_newer_than_the_index_are_not_held_beyond_the_memory_given(lagging) -> None:
    store, vectors = lagging
    queries = vectors[[3, 700, 20_499]].astype(np.float32)
    expected = nearest_keys(queries, [f"k{i}" for i in range(20_500)], vectors, 5)
    with peak_memory() as peak:
        searcher = Searcher(store, memory_bytes=1 << 20)
        found = searcher.by_vector(queries, SearchOptions(k=5))
        assert peak() < 6e6
    assert [keys_of(hits) for hits in found] == expected
    assert [keys_of(h) for h in Searcher(store).by_vector(queries, SearchOptions(k=5))] == expected
    add_shard(store, "newest", ["last"], unit_rows(1, 256, seed=77))
    assert searcher.by_vector(unit_rows(1, 256, seed=77).astype(np.float32))[0][0].key == "last"
    assert keys_of(searcher.by_vector(queries, SearchOptions(k=5))[2]) == expected[2]


def test_a_refresh_decides_to_rebuild_without_reading_the_newer_rows(lagging, monkeypatch) -> None:
    store, _ = lagging

    def read(*_arguments: object) -> None:
        raise AssertionError("rows were read before the decision")

    monkeypatch.setattr(snapshot_module, "_taken", read)
    report = refresh_index(store, memory_bytes=1 << 20)
    assert (report.action, report.manifest.rows) == ("rebuilt", 20_500)
    assert "4000% of the rows changed" in report.why


@pytest.mark.parametrize("index", [None, "ivf-fp16"])
def test_excluding_half_of_the_table_asks_for_no_more_hits_than_wanted(tmp_path, monkeypatch, index) -> None:
    vectors = unit_rows(12_000, 16)
    store = make_table(tmp_path, vectors, [{"sex": "FM"[i % 2]} for i in range(12_000)])
    if index:
        build_index(store, Goal(kind=index))
    asked = []
    real = Snapshot.search

    def noted(self: Snapshot, queries: np.ndarray, k: int, allowed: object) -> object:
        asked.append(k)
        return real(self, queries, k, allowed)

    monkeypatch.setattr(Snapshot, "search", noted)
    options = SearchOptions(k=7, exclude_same="sex")
    found = Searcher(store).by_key(["k10", "k11", "k12"], options)
    for key, hits in zip((10, 11, 12), found, strict=True):
        others = [i for i in range(12_000) if i % 2 != key % 2]
        query = vectors[key : key + 1].astype(np.float32)
        assert keys_of(hits) == nearest_keys(query, [f"k{i}" for i in others], vectors[others], 7)[0]
    assert max(asked) == 7
    both = SearchOptions(k=7, exclude_same="sex", where="key < 'k2'")
    assert all(int(hit.key[1:]) % 2 and hit.key < "k2" for hit in Searcher(store).by_key(["k10"], both)[0])


def test_opening_the_vectors_of_an_index_reads_neither_keys_nor_ids_into_memory(tmp_path: Path) -> None:
    n = 200_000
    paths = VectorPaths(*(tmp_path / name for name in ("vectors", "row_ids", "keys")))
    blocks = (
        (np.arange(s, s + 20_000), unit_rows(20_000, 4, seed=s), pa.array([f"key {i}" for i in range(s, s + 20_000)]))
        for s in range(0, n, 20_000)
    )
    slack = write_vectors(paths, blocks)
    wanted = np.array([199_999, 0, 57, 100_000])
    before = pa.total_allocated_bytes()
    with peak_memory() as peak:
        rows = VectorFile(paths, 4, slack)
        assert rows.keys(rows.positions(wanted)) == [f"key {i}" for i in wanted]
        assert peak() < 1e6  # 8 bytes a row would be 1.6e6
    assert pa.total_allocated_bytes() - before < 1e6


def test_rows_whose_ids_do_not_ascend_are_found(tmp_path: Path) -> None:
    paths = VectorPaths(*(tmp_path / name for name in ("vectors", "row_ids", "keys")))
    ids = np.random.default_rng(0).permutation(1000) * 3
    slack = write_vectors(paths, [(ids, unit_rows(1000, 4), pa.array([str(i) for i in ids]))])
    rows = VectorFile(paths, 4, slack)
    asked = np.array([[0, 3], [2997, 1]])
    assert rows.keys(rows.positions(asked)[0]) == ["0", "3"]
    assert rows.positions(asked)[1, 1] == -1


def test_an_export_streams_and_gives_the_rows_of_the_table(tmp_path: Path) -> None:
    vectors = unit_rows(40_000, 128)
    make_table(tmp_path / "db", vectors)
    assert call("indexer", "export", tmp_path / "db", tmp_path / "first.npy").code == 0  # and all is imported
    with peak_memory() as peak:
        assert call("indexer", "export", tmp_path / "db", tmp_path / "v.npy").code == 0
        assert peak() < vectors.nbytes / 2
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), vectors)
    assert (tmp_path / "v.keys.txt").read_text().splitlines() == [f"k{i}" for i in range(40_000)]


def succeed(program: str, *arguments: object) -> None:
    assert call(program, *arguments).code == 0


def test_near_duplicates_and_health_hold_few_bytes_a_row(tmp_path: Path) -> None:
    """The slope between two sizes; at 100 million rows 100 bytes a row would be 10 GB."""
    peaks: dict[str, list[int]] = {"health": [], "near-duplicates": []}
    for n in (20_000, 50_000):  # several batches each
        store = make_table(tmp_path / str(n), unit_rows(n, 8, clusters=1, spread=9))
        for command, options in (("health", ()), ("near-duplicates", ("--threshold", 1))):
            peaks[command].append(least_peak(partial(succeed, "indexer", command, store.uri, *options)))
    slopes = {command: (large - small) / 30_000 for command, (small, large) in peaks.items()}
    assert slopes["health"] < 24
    assert slopes["near-duplicates"] < 48


@pytest.mark.case("T8")
def test_a_huge_k_takes_no_more_than_the_table_holds(tmp_path: Path) -> None:
    store = make_table(tmp_path, VECTORS)
    build_index(store, Goal(kind="ivf-fp16"))
    for searcher in (Searcher(store), Searcher(store, exact=True), Searcher(store, exact=True, memory_bytes=0)):
        with peak_memory() as peak:
            found = searcher.by_vector(VECTORS[:3].astype(np.float32), SearchOptions(k=100_000_000))
            assert peak() < 20e6
        assert [sorted(keys_of(hits)) for hits in found] == [sorted(KEYS)] * 3


@pytest.mark.case("T8")
@pytest.mark.parametrize("option", ["-k", "--offset"])
def test_a_number_beyond_all_tables_is_wrong_usage(tmp_path: Path, option: str) -> None:
    store = make_table(tmp_path, VECTORS[:5])
    done = call("indexer", "search", store.uri, "--key", "k1", option, 2**62)
    assert done.code == 2
    assert "not in the range" in done.err
    with pytest.raises(InputError, match="k must be 1 to"):
        SearchOptions(k=2**62)


# --- pages


@pytest.mark.case("T8")
@pytest.mark.parametrize("kind", ["ivf-rabitq", "ivf-rabitqlib", "hnsw-fp16", "ivf-sq8"])
@pytest.mark.parametrize("size", [5, 10])
def test_no_row_stands_on_two_pages(tmp_path: Path, kind: str, size: int) -> None:
    vectors = unit_rows(3000, 32, clusters=1, spread=4)
    store = make_table(tmp_path, vectors)
    build_index(store, Goal(recall=0.8, kind=kind))
    searcher = Searcher(store)
    queries = unit_rows(100, 32, seed=5, clusters=1, spread=4).astype(np.float32)
    pages = [searcher.by_vector(queries, SearchOptions(k=size, offset=size * page)) for page in range(10)]
    for q in range(100):
        keys = [key for page in pages for key in keys_of(page[q])]
        assert len(keys) == len(set(keys)) == 10 * size
        for page in pages:
            assert [hit.score for hit in page[q]] == sorted((hit.score for hit in page[q]), reverse=True)


# --- exclusion by any type


def _zoned(day: int) -> datetime.datetime:
    return datetime.datetime(2020, 1, 1 + day, 12, 30, tzinfo=datetime.UTC)


TYPES = {
    "date": (pa.date32(), lambda g: datetime.date(2020, 1, 1 + g)),
    "time": (pa.time64("us"), lambda g: datetime.time(g, 5)),
    "timestamp": (pa.timestamp("us"), lambda g: datetime.datetime(2020, 1, 1 + g, 3)),
    "zoned": (pa.timestamp("us", tz="UTC"), _zoned),
    "decimal": (pa.decimal128(10, 3), lambda g: decimal.Decimal(g) / 8),
    "float": (pa.float64(), lambda g: g / 3),
    "half": (pa.float16(), lambda g: np.float16(g / 3)),
    "bool": (pa.bool_(), lambda g: bool(g % 2)),
    "int": (pa.int64(), lambda g: g - 4),
    "text": (pa.string(), lambda g: f"it's {g}"),
    "binary": (pa.binary(), lambda g: bytes([g])),
}


def add_column(store: EmbeddingStore, name: str, values: pa.Array) -> None:
    """As another program would, with any type."""
    import lance

    dataset = lance.dataset(f"{store.uri}/t.lance")
    keys = dataset.to_table(columns=["key"]).column("key")
    order = [int(key[1:]) for key in keys.to_pylist()]
    dataset.merge(pa.table({"key": keys, name: values.take(pa.array(order))}), "key")
    store.refresh()


@pytest.mark.case("T10")
@pytest.mark.parametrize("kind", TYPES)
def test_the_same_value_of_any_type_is_left_out(tmp_path: Path, kind: str) -> None:
    store = make_table(tmp_path, VECTORS[:60])
    arrow, value = TYPES[kind]
    values = [value(i % 6) if i % 10 else None for i in range(60)]
    add_column(store, "c", pa.array(values, arrow))
    for key in (1, 2, 10):
        hits = Searcher(store).by_key([f"k{key}"], SearchOptions(k=60, exclude_same="c"))[0]
        same = {i for i in range(60) if values[i] == values[key] and values[key] is not None} | {key}
        assert set(keys_of(hits)) == {f"k{i}" for i in range(60) if i not in same}


@pytest.mark.case("T10")
def test_nan_is_like_no_other_value(tmp_path: Path) -> None:
    store = make_table(tmp_path, VECTORS[:20])
    add_column(store, "c", pa.array([float("nan") if i < 10 else 1.5 for i in range(20)]))
    for key, left in ((3, 19), (12, 10)):
        assert len(Searcher(store).by_key([f"k{key}"], SearchOptions(k=20, exclude_same="c"))[0]) == left


@given(st.lists(st.lists(st.integers(0, 5000), max_size=30), max_size=4), st.lists(st.integers(-5, 6000), max_size=30))
def test_a_row_set_is_a_set(blocks: list[list[int]], asked: list[int]) -> None:
    rows = RowSet.of(np.array(block, np.int64) for block in blocks)
    truth = {i for block in blocks for i in block}
    other = RowSet.of([np.array([i for i in asked if i >= 0], np.int64)])
    others = {i for i in asked if i >= 0}
    assert (len(rows), [i for ids in rows.ids() for i in ids.tolist()]) == (len(truth), sorted(truth))
    assert rows.has(np.array(asked, np.int64)).tolist() == [i in truth for i in asked]
    for made, expected in (
        (rows & other, truth & others),
        (rows | other, truth | others),
        (rows - other, truth - others),
    ):
        assert {i for ids in made.ids() for i in ids.tolist()} == expected
    assert {i for ids in (RowSet.below(77) - rows).ids() for i in ids.tolist()} == set(range(77)) - truth


# --- an index is hashed once a state


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[EmbeddingStore, list[str]]:
    """An index, and the names of the files that are hashed from now on; files settle at once."""
    store = make_table(tmp_path / "db", VECTORS[:200])
    build_index(store, Goal(kind="ivf-fp16"))
    monkeypatch.setattr(verified, "SETTLED_SECONDS", -1.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    read: list[str] = []
    real = FileFact.of

    def noted(path: Path) -> FileFact:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(files.FileFact, "of", noted)
    return store, read


def test_a_second_search_hashes_nothing_and_health_hashes_all(hashed) -> None:
    store, read = hashed
    Searcher(store).by_key(["k1"])
    assert len(read) == 4
    Searcher(store).by_key(["k1"])
    assert len(read) == 4
    health(store)
    assert len(read) == 8


def test_a_byte_altered_under_the_old_size_and_time_is_found(hashed) -> None:
    store, _ = hashed
    Searcher(store).by_key(["k1"])
    manifest = read_manifest(store.index_directory)
    assert manifest is not None
    path = vector_paths(store.index_directory, manifest.generation).vectors
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(IndexFileError, match="was altered"):
        Searcher(store).by_key(["k1"])


def test_a_file_that_changed_just_now_is_not_trusted_to_the_notes(hashed, monkeypatch) -> None:
    store, read = hashed
    monkeypatch.setattr(verified, "SETTLED_SECONDS", 3600.0)
    Searcher(store).by_key(["k1"])
    Searcher(store).by_key(["k1"])
    assert len(read) == 8


@pytest.mark.parametrize("bad", ["", "[]", '{"a": 1}', '{"a": {"state": [1], "sha256": 2}}', "fifo", "link"])
def test_notes_that_are_none_are_passed_over(hashed, tmp_path: Path, bad: str) -> None:
    store, read = hashed
    manifest = read_manifest(store.index_directory)
    assert manifest is not None
    notes = store.index_directory / verified.NOTES.format(manifest.generation)
    if bad == "fifo":
        os.mkfifo(notes)
    elif bad == "link":
        (tmp_path / "target").write_text("kept")
        notes.symlink_to(tmp_path / "target")
    else:
        notes.write_text(bad)
    assert keys_of(Searcher(store).by_key(["k1"])[0])
    assert len(read) == 4
    assert bad != "link" or (tmp_path / "target").read_text() == "kept"


def test_notes_go_to_the_users_cache_where_the_index_cannot_be_written(hashed, tmp_path: Path) -> None:
    store, read = hashed
    manifest = read_manifest(store.index_directory)
    assert manifest is not None
    (store.index_directory / verified.NOTES.format(manifest.generation)).mkdir()  # nothing can replace it
    Searcher(store).by_key(["k1"])
    Searcher(store).by_key(["k1"])
    assert len(read) == 4
    assert len(list((tmp_path / "cache" / "embedding-indexer").iterdir())) == 1


# --- files that a command writes


@pytest.mark.case("U4")
@pytest.mark.parametrize("option", ["--html", "--png"])
@pytest.mark.parametrize("name", ["none/x.html", "."])
def test_a_picture_page_that_cannot_be_written_is_one_line_before_the_search(
    tmp_path, monkeypatch, option, name
) -> None:
    store = make_table(tmp_path / "db", VECTORS[:20])
    monkeypatch.chdir(tmp_path)
    done = call("indexer", "search", store.uri, "--key", "k1", option, name)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"error: {option} {name}")
    assert len(done.err.splitlines()) == 1


@pytest.mark.case("U3")
@pytest.mark.parametrize("command", ["html", "png", "export", "near-duplicates"])
def test_what_stood_there_stays_where_writing_fails(tmp_path: Path, monkeypatch, command: str) -> None:
    store = make_table(tmp_path / "db", np.repeat(VECTORS[:10], 2, axis=0))
    out = tmp_path / {"html": "x.html", "png": "x.png", "export": "x.npy", "near-duplicates": "x.csv"}[command]
    out.write_text("old")
    arguments = {
        "html": ("search", store.uri, "--key", "k1", "--html", out),
        "png": ("search", store.uri, "--key", "k1", "--png", out),
        "export": ("export", store.uri, out),
        "near-duplicates": ("near-duplicates", store.uri, "--out", out),
    }[command]

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("indexer.output_file.fsync", full)
        done = call("indexer", *arguments)
    assert done.code == 1
    assert "cannot be written: No space left on device" in done.err
    assert out.read_text() == "old"
    assert {p.name for p in tmp_path.iterdir()} == {"db", out.name}
    assert call("indexer", *arguments).code == 0
    assert out.read_bytes() != b"old"


@pytest.mark.case("U13")
@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_near_duplicates_writes_what_the_name_says_and_lists_the_first_pairs(tmp_path: Path, name: str) -> None:
    import pyarrow.parquet as pq

    store = make_table(tmp_path / "db", np.repeat(VECTORS[:20:2], 2, axis=0), [{"patient": i} for i in range(20)])
    out = tmp_path / name
    done = call("indexer", "near-duplicates", store.uri, "--threshold", 1, "--group", "patient", "--out", out)
    assert done.code == 0, done.err
    table = pv.read_csv(out) if name.endswith("csv") else pq.read_table(out)
    expected = [(f"k{2 * i}", f"k{2 * i + 1}") for i in range(10)]
    assert list(zip(table.column("key_a").to_pylist(), table.column("key_b").to_pylist(), strict=True)) == expected
    assert table.column("patient_b").to_pylist() == list(range(1, 20, 2))
    assert "first 10 pairs" in done.out
    assert all(f"{a}\t{b}\t1\t" in done.out for a, b in expected)
    shown = call("indexer", "near-duplicates", store.uri, "--threshold", 1, "--json").json["first_pairs"]
    assert [(pair["key_a"], pair["key_b"], pair["score"]) for pair in shown] == [(a, b, 1.0) for a, b in expected]


@pytest.mark.case("U13")
def test_pairs_of_another_ending_are_refused_before_the_work(tmp_path: Path) -> None:
    store = make_table(tmp_path / "db", VECTORS[:5])
    done = call("indexer", "near-duplicates", store.uri, "--out", tmp_path / "x.xlsx")
    assert (done.code, done.out) == (1, "")
    assert ".parquet or .csv" in done.err


@pytest.mark.case("T12", "X8")
def test_a_key_with_a_line_break_is_not_exported_to_a_list_of_lines(tmp_path: Path) -> None:
    store = make_table(tmp_path / "db", VECTORS[:5])
    add_shard(store, "odd", ["two\nlines"], VECTORS[5:6])
    done = call("indexer", "export", store.uri, tmp_path / "x.npy")
    assert done.code == 1
    assert "line break" in done.err
    assert {p.name for p in tmp_path.iterdir()} == {"db"}
    assert call("indexer", "export", store.uri, tmp_path / "x.parquet").code == 0


def test_a_change_of_goal_names_only_what_changes() -> None:
    goal, words = GoalChange(recall=0.98, kind="ivf-fp16").of(Goal())
    assert (goal, words) == (Goal(kind="ivf-fp16"), ["kind measured → ivf-fp16"])


# --- memory


def test_vectors_larger_than_the_memory_are_given_back_while_they_are_read(tmp_path: Path) -> None:
    n, limit = 40_000, 16 << 20
    vectors = np.repeat(unit_rows(n // 100, 512), 100, axis=0)  # 41 MB
    paths = VectorPaths(*(tmp_path / name for name in ("vectors", "row_ids", "keys")))
    slack = write_vectors(paths, [(np.arange(n), vectors, pa.array([str(i) for i in range(n)]))])
    rows = VectorFile(paths, 512, slack)

    def resident() -> int:
        after = Path("/proc/self/smaps").read_text().split(f"{paths.vectors}\n")[1]
        return 1024 * int(next(line for line in after.splitlines() if line.startswith("Rss")).split()[1])

    for _ in rows.scan(2_000):
        pass
    rows.take(np.arange(0, n, 7))
    assert resident() <= vectors.nbytes
    rows.keep_within(limit)
    most = 0
    for ids, block in rows.scan(2_000):
        assert (block == vectors[ids]).all()
        most = max(most, resident())
    for start in range(0, n, 64):
        spots = np.random.default_rng(start).integers(0, n, 64)
        assert (rows.take(spots) == vectors[spots]).all()
        most = max(most, resident()) if start % 6_400 == 0 else most
    assert most <= limit
