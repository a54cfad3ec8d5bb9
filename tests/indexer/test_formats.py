"""A database of format 1 (made by the version before, kept in tests/formats) is read as it is, and written to in
today's format. What it holds is known from Lance itself, read past our code."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.archive.shards import find_shards
from indexer.errors import NewerFormat, StoreError
from indexer.pipeline.run import index
from indexer.store import schema
from indexer.store.formats import migrate
from indexer.store.formats.format import FORMAT, METADATA_KEY
from indexer.store.holding.commits import TableLock
from indexer.store.labelling.join import add_columns
from indexer.store.rows import TextVectors
from indexer.store.table import EmbeddingStore
from indexer.store.text import read_text, write_text
from indexer.store.writer import StoreWriter
from indexer.store.writing import side_tables
from indexer.types import Failure, Shard, ShardResult
from indexer.upkeep import health
from probes.runs.result import FORMAT as RESULT_FORMAT
from tests.archives import shard
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.tables import add_shard, make_table, unit_rows

KEPT = Path(__file__).parents[1] / "formats" / "format-1.tar.gz"
FAILING = ShardResult(Shard("f", "f", "f-1"), (), (Failure("f", "bad", "decode", "corrupt image"),), 1)
CINE = [f"cine{n}{frame}" for n in (0, 1) for frame in ("", "#1", "#2")]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder with `db`, `result` and `labels.csv`."""
    with tarfile.open(KEPT) as archive:
        archive.extractall(tmp_path, filter="data")  # our own file
    return tmp_path


def bytes_of(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stored(db: Path) -> dict[str, Any]:
    """key → (frame or part, vector's bytes, norm, class), as Lance has it."""
    table = lance.dataset(str(db / "fake.lance")).to_table()
    flat = table.column("vector").combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
    names = [name for name in ("frame", "part", "norm", "class") if name in table.column_names]
    columns = table.select(["key", *names]).to_pylist()
    return {row["key"]: {**row, "vector": flat[i].tobytes()} for i, row in enumerate(columns)}


def cosine_neighbours(db: Path, key: str, k: int) -> list[str]:
    rows = stored(db)
    vectors = np.stack([np.frombuffer(row["vector"], np.float16).astype(np.float64) for row in rows.values()])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    keys = list(rows)
    order = np.argsort(-vectors @ vectors[keys.index(key)], kind="stable")
    return [keys[i] for i in order if keys[i] != key][:k]


def answered(program: str, *arguments: object) -> Any:
    done = call(program, *arguments, "--json")
    assert done.code == 0, done.err
    return done.json


def test_every_reading_command_reads_format_1_and_writes_nothing(old: Path) -> None:
    db, before = old / "db", bytes_of(old / "db")
    found = answered("indexer", "search", db, "--key", "cine0#1", "-k", 5)
    assert [hit["key"] for hit in found["queries"][0]["hits"]] == cosine_neighbours(db, "cine0#1", 5)
    (info,) = answered("indexer", "info", db)
    assert (info["rows"], info["failures"], info["format"]) == (126, 2, 1)
    assert list(info["columns"]) == ["n", "patient", "sex", "class"]
    assert len(answered("indexer", "failures", db)) == 2
    assert answered("indexer", "health", db)["rows"] == 126
    probed = answered("probes", "linear", db, "--label", "class", "--group", "patient", "--replicates", 20)
    assert probed["flow"]["embedded"] == 126
    assert len(answered("probes", "predict", old / "result", db)["rows"]) == 126
    again = call("probes", "rerun", old / "result", "--db", db, "--json").json  # methods were mended since
    assert again["version"] == 4
    assert {text.split(":")[0] for text in again["changed"]} >= {f"result format 1 → {RESULT_FORMAT}"}
    assert call("probes", "report", old / "result").code == 0
    assert answered("indexer", "near-duplicates", db)["rows"] == 126
    out = old / "out.parquet"
    assert answered("indexer", "export", db, out)["rows"] == 126
    rows = stored(db)
    for row in pq.read_table(out).to_pylist():
        frame = rows[row["key"]]["frame"]
        assert row["part"] == (str(frame) if frame else "")
        assert np.array(row["vector"], np.float16).tobytes() == rows[row["key"]]["vector"]
    assert bytes_of(db) == before


def test_a_writer_brings_it_to_todays_format_and_no_vector_changes(old: Path) -> None:
    db, before = old / "db", stored(old / "db")
    shard(old / "new.tar", list(range(900, 908)))
    encoder = FakeEncoder()
    store = EmbeddingStore.open(str(db))
    report = index(find_shards([str(old / "new.tar")]).shards, store, encoder)
    assert (report.embedded, report.failed) == (8, 0)
    labels = old / "more.csv"
    labels.write_text("key,seen\n" + "".join(f"{key},1\n" for key in CINE))
    assert answered("indexer", "labels", db, labels)["rows_labelled"] == 6
    built = answered("indexer", "build-ann", db, "--refresh")
    assert (built["action"], built["inserted"], built["updated"], built["deleted"]) == ("refreshed", 8, 0, 0)
    after = stored(db)
    assert after.keys() - before.keys() == {f"im{n}" for n in range(900, 908)}
    for key, row in before.items():
        now = after[key]
        assert (now["vector"], now["norm"], now["class"]) == (row["vector"], row["norm"], row["class"])
        assert now["part"] == (str(row["frame"]) if row["frame"] else "")
        assert "frame" not in now
    assert [after[key]["part"] for key in CINE] == ["", "1", "2"] * 2
    (info,) = answered("indexer", "info", db)
    assert (info["rows"], info["failures"], info["format"], info["shards"]) == (134, 2, FORMAT, 3)
    assert len(info["identity"]) == 32
    found = answered("indexer", "search", db, "--key", "cine0#1", "-k", 5)
    assert [hit["key"] for hit in found["queries"][0]["hits"]] == cosine_neighbours(db, "cine0#1", 5)


@pytest.mark.parametrize("command", ["labels", "optimize", "writer", "text"])
def test_every_way_to_write_leaves_all_tables_of_one_format_and_identity(old: Path, command: str) -> None:
    store = EmbeddingStore.open(str(old / "db"))
    if command == "text":
        text = TextVectors(("a",), np.eye(16, dtype=np.float32)[:1], 1.0, None)
        write_text(store, "task", text)
    elif command == "writer":
        with StoreWriter(store):
            pass
    else:
        arguments = [old / "labels.csv"] if command == "labels" else []
        answered("indexer", command, old / "db", *arguments)
    again = EmbeddingStore.open(store.uri)
    assert again.format == FORMAT
    for kind in ("shards", "failures", *(["text"] if command == "text" else [])):
        told = marks(old / "db" / f"fake.{kind}.lance")
        assert (told["format"], told["identity"]) == (FORMAT, again.state.identity)
    assert (again.ledger().num_rows, again.failures().num_rows, again.count()) == (2, 2, 126)


def marks(table: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(lance.dataset(str(table)).schema.metadata[METADATA_KEY])
    return facts


class Killed(BaseException):
    """As sudden as a signal: nothing of ours catches it."""


STEPS = ("add_columns", "drop_columns", "update_schema_metadata", "alter_columns")


def kills(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Path]:
    """A fresh copy of `folder` each time, whose migration dies before or after one more of Lance's commits."""
    for step in range(100):
        place = folder.parent / f"killed{step}"
        shutil.copytree(folder, place)
        left = step
        with monkeypatch.context() as patch:
            for name in STEPS:
                real = getattr(lance.LanceDataset, name)

                def dying(self: Any, *args: Any, real: Any = real, **more: Any) -> Any:
                    nonlocal left
                    for half in (lambda: None, lambda: real(self, *args, **more)):
                        if left == 0:
                            raise Killed
                        left -= 1
                        out = half()
                    return out

                patch.setattr(lance.LanceDataset, name, dying)
            try:
                with TableLock(str(place), "fake"):
                    migrate.migrate(str(place), "fake")
            except Killed:
                pass
            else:
                assert step > 6, "nothing was killed"
                return
        yield place


def test_a_migration_killed_at_any_step_is_read_and_goes_on(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stored(old / "db")
    add_columns(EmbeddingStore.open(str(old / "db")), pa.table({"key": ["im000"], "seen": [1]}))  # a format-2 twin
    shutil.rmtree(old / "db")
    with tarfile.open(KEPT) as archive:
        archive.extractall(old, filter="data")
    rename(old / "db", "n", "part_n")  # a user's column by a name that is taken now
    for place in kills(monkeypatch, old / "db"):
        parts = {key: str(row["frame"]) if row["frame"] else "" for key, row in before.items()}
        reader = EmbeddingStore.open(str(place))
        assert read_parts(reader) == parts
        assert (reader.ledger().num_rows, reader.failures().num_rows) == (2, 2)
        with StoreWriter(reader) as held:
            assert len(held.entries) == 2
            assert held.recovered == 0
        done = EmbeddingStore.open(str(place))
        assert (done.format, read_parts(done)) == (FORMAT, parts)
        assert list(done.columns()) == ["own_part_n", "patient", "sex", "class"]
        assert [marks(place / f"fake.{kind}.lance")["identity"] for kind in ("shards", "failures")] == [
            done.state.identity
        ] * 2
        after = stored(place)
        assert all(after[key]["vector"] == row["vector"] for key, row in before.items())


def without_locks(files: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in files.items() if ".lock" not in name and ".lease-" not in name}


def read_parts(store: EmbeddingStore) -> dict[str, str]:
    return {row["key"]: row["part"] for batch in store.scan(["key", "part"]) for row in batch.to_pylist()}


def rename(db: Path, name: str, new: str) -> None:
    lance.dataset(str(db / "fake.lance")).alter_columns({"path": name, "name": new})


def test_a_column_by_a_name_that_is_taken_now_keeps_its_values_under_another(old: Path) -> None:
    rename(old / "db", "n", "part")
    kept = {r["key"]: r["part"] for r in lance.dataset(str(old / "db" / "fake.lance")).to_table().to_pylist()}
    assert answered("indexer", "optimize", old / "db")["renamed"] == {"part": "own_part"}
    store = EmbeddingStore.open(str(old / "db"))
    rows = [r for b in store.scan(["key", "part", "own_part"]) for r in b.to_pylist()]
    assert {r["key"]: r["own_part"] for r in rows} == kept
    assert {r["part"] for r in rows} == {"", "1", "2"}


@pytest.mark.parametrize("kind", ["", ".shards", ".failures", ".text"])
def test_a_newer_format_of_any_table_is_refused_in_one_line_with_the_version_to_install(
    tmp_path: Path, kind: str
) -> None:
    store = make_table(tmp_path, unit_rows(5, 8))
    write_text(store, "task", TextVectors(("a",), np.eye(8, dtype=np.float32)[:1], 1.0, None))
    table = lance.dataset(f"{tmp_path}/t{kind}.lance")
    told = json.loads(table.schema.metadata[METADATA_KEY])
    table.update_schema_metadata({METADATA_KEY.decode(): json.dumps(told | {"format": FORMAT + 1, "package": "7.8"})})
    before = bytes_of(tmp_path)
    reads = {".text": lambda: read_text(store, "task"), ".failures": store.failures, ".shards": store.ledger}
    with pytest.raises(NewerFormat, match=r"format 3.*Install embedding-indexer 7\.8 or newer"):
        reads.get(kind, lambda: EmbeddingStore.open(str(tmp_path)))()
    writes = {".text": lambda: write_text(store, "b", TextVectors(("a",), np.eye(8, dtype=np.float32)[:1], 1.0, None))}
    with pytest.raises(NewerFormat):
        writes.get(kind, lambda: add_shard(store, "more", ["x"], unit_rows(1, 8)))()
    after = bytes_of(tmp_path)
    assert without_locks(after) == without_locks(before)
    done = call("indexer", "info", tmp_path)
    assert (done.code, done.err.count("\n"), "7.8" in done.err) == ((1, 1, True) if kind != ".text" else (0, 0, False))


def test_damaged_metadata_is_one_line(tmp_path: Path) -> None:
    make_table(tmp_path, unit_rows(5, 8))
    table = lance.dataset(f"{tmp_path}/t.lance")
    for text in ("{", "[]", '{"format": "x"}', "null", '{"format": 2}', '{"format": 2, "encoder": {"name": 1}}'):
        table.update_schema_metadata({METADATA_KEY.decode(): text})
        with pytest.raises(StoreError):
            EmbeddingStore.open(str(tmp_path))


def test_a_side_table_that_lacks_a_column_is_read_and_written_with_its_default(tmp_path: Path) -> None:
    store = make_table(tmp_path, unit_rows(5, 8))
    with StoreWriter(store) as held:
        held.commit([FAILING])
    lance.dataset(f"{tmp_path}/t.failures.lance").drop_columns(["member", "nbytes"])
    lance.dataset(f"{tmp_path}/t.shards.lance").drop_columns(["status", "finished_at"])
    read = store.failures().select(["key", "member", "nbytes"]).to_pylist()
    assert read == [{"key": "bad", "member": "", "nbytes": 0}]
    add_shard(store, "more", ["x"], unit_rows(1, 8))
    assert store.failures().num_rows == 1
    status = {row["shard"]: row["status"] for row in store.ledger().to_pylist()}
    assert status == {"first": "", "f": "", "more": "done"}


def test_a_column_that_a_later_ledger_has_is_added_to_an_existing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_table(tmp_path, unit_rows(5, 8))
    wider = schema.FAILURE_SCHEMA.append(pa.field("tool", pa.string(), False))
    for module in (schema, side_tables):
        monkeypatch.setattr(module, "FAILURE_SCHEMA", wider)
    monkeypatch.setitem(migrate.SIDES, "failures", wider)
    monkeypatch.setattr(side_tables, "failures_table", lambda failures: schema.completed(_narrow(failures), wider))
    with StoreWriter(store) as held:
        held.commit([FAILING])
    assert lance.dataset(f"{tmp_path}/t.failures.lance").to_table().column("tool").to_pylist() == [""]


def _narrow(failures: Any) -> pa.Table:
    names = [name for name in schema.FAILURE_SCHEMA.names if name != "tool"]
    return pa.table({name: [getattr(f, name) for f in failures] for name in names})


def test_a_ledger_left_by_a_dropped_table_is_named_and_made_anew(tmp_path: Path) -> None:
    """Its rows say that shards are done which the new table never saw: an index run would embed nothing."""
    shard(tmp_path / "a.tar", list(range(6)))
    db, encoder = tmp_path / "db", FakeEncoder()
    shards = find_shards([str(tmp_path / "a.tar")]).shards
    assert index(shards, EmbeddingStore.create(str(db), "t", encoder.spec), encoder).embedded == 6
    shutil.rmtree(db / "t.lance")
    store = EmbeddingStore.create(str(db), "t", encoder.spec)
    with pytest.raises(StoreError, match="another table of that name"):
        store.ledger()
    assert index(shards, store, encoder).embedded == 6
    store.refresh()
    assert (store.count(), store.ledger().num_rows) == (6, 1)


def test_health_names_rows_that_version_0_1_may_have_decoded_wrongly(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "MENDED", ("gif",))  # the kept database has no TIFF and no DICOM
    first = answered("indexer", "health", old / "db")["problems"]
    assert [text for text in first if text.startswith("6 rows of TIFF or DICOM images were embedded by version 0.1")]
    add_shard(EmbeddingStore.open(str(old / "db")), "new", ["one"], unit_rows(1, 16))  # migrates
    after = answered("indexer", "health", old / "db")["problems"]
    assert [text for text in after if text.startswith("6 rows")]
    monkeypatch.setattr(health, "MENDED", ("png",))
    assert [text for text in answered("indexer", "health", old / "db")["problems"] if text.startswith("120 rows")]


def test_health_of_a_table_of_today_names_no_such_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MENDED", ("png",))
    store = make_table(tmp_path, unit_rows(5, 16))
    assert not [text for text in answered("indexer", "health", store.uri)["problems"] if "0.1" in text]
