"""Parquet, npz and listings of paths: the same pictures through every door; resume, identity, failures, read-back."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.archive.reader import read_place, read_shard
from indexer.archive.shards import find_shards
from indexer.archive.tables.named import TableOptions
from indexer.errors import IndexerError, InputError, NotAnArchive, ReadError
from indexer.pipeline import worker
from indexer.pipeline.retry import retry
from indexer.store.rows import PLACE_COLUMNS, place_of
from indexer.store.table import EmbeddingStore
from indexer.types import Failure, Place, Sample
from indexer.upkeep.relocate import relocate
from tests.archives import png
from tests.commands import call
from tests.decoding import decode_by
from tests.fakes import FakeEncoder
from tests.memory import peak_memory
from tests.source_doors import DOORS, KEYS, N, content, run
from tests.sources import as_csv, as_folder, as_lmdb, as_mds, as_npz, as_parquet, as_tar, as_zip, fields, pixels, ppm


@pytest.mark.parametrize("door", DOORS)
def test_the_same_twenty_pictures_give_the_same_hashes_vectors_and_metadata_through_every_door(tmp_path, door):
    source, tables = DOORS[door](tmp_path)
    report = run(source, tmp_path / "db", tables=tables)
    assert (report.embedded, report.failed, report.warnings) == (N, 0, ())
    found = content(tmp_path / "db")
    for i, (pixel, facts) in enumerate(zip(pixels(N), fields(N), strict=True)):
        _, key, meta = found[hashlib.sha256(ppm(pixel)).hexdigest()]
        assert key == KEYS[door].format(i)
        meta.pop("file", None), meta.pop("image", None), meta.pop("folder", None)
        assert meta == facts
    again = FakeEncoder()
    assert (run(source, tmp_path / "db", again, tables).shards_done, again.calls) == (0, 0)
    folder = as_folder(tmp_path / "plain", N)
    run(folder, tmp_path / "plain.db")
    assert {k: v[0] for k, v in found.items()} == {k: v[0] for k, v in content(tmp_path / "plain.db").items()}
    store = EmbeddingStore.open(str(tmp_path / "db"))
    for batch in store.scan([*PLACE_COLUMNS, "content"]):
        for row in batch.to_pylist():
            data = read_place(store.urls()[row["shard"]], place_of(row), row["content"], roots=[str(tmp_path)])
            assert hashlib.sha256(data).hexdigest() == row["content"]


@pytest.mark.parametrize("door", ["parquet, struct", "parquet, paths", "npz", "csv", "zip", "lmdb", "mds"])
def test_a_failure_is_retried_and_a_moved_archive_keeps_its_rows(tmp_path, monkeypatch, door):
    (tmp_path / "old").mkdir()
    source, tables = DOORS[door](tmp_path / "old")
    real, calls = worker.decode_missing, []

    def third_fails(image, *rest, **named):
        calls.append(image)
        return real(b"no image" if len(calls) == 3 else image, *rest, **named)

    decode_by(monkeypatch, third_fails)
    assert run(source, tmp_path / "db", tables=tables, workers=1).failed == 1
    store = EmbeddingStore.open(str(tmp_path / "db"))
    again = retry(store, FakeEncoder(), roots=[str(tmp_path)])
    assert (again.embedded, again.warnings) == (1, ())
    before = content(tmp_path / "db")
    (tmp_path / "old").rename(tmp_path / "new")
    moved = relocate(EmbeddingStore.open(str(tmp_path / "db")), str(tmp_path / "old"), str(tmp_path / "new"))
    assert (moved.images_checked, moved.changed) == (N, ())
    encoder = FakeEncoder()
    report = run(tmp_path / "new" / source.relative_to(tmp_path / "old"), tmp_path / "db", encoder, tables)
    assert (report.shards_skipped, encoder.calls) == (1, 0)
    assert content(tmp_path / "db") == before


SCRIPT = """
import sys, time
from indexer.archive.shards import find_shards
from indexer.archive.tables.named import TableOptions
from indexer.pipeline.options import RunOptions
from indexer.pipeline.run import index
from indexer.store.table import EmbeddingStore
from tests.fakes import FakeEncoder
from tests.memory import peak_memory

calls = []

def slow(vectors):
    calls.append(1)
    if len(calls) > 16:  # two commits are behind it: it waits to be killed
        time.sleep(300)
    return vectors

encoder = FakeEncoder(change=slow)
store = EmbeddingStore.create(sys.argv[1], "t", encoder.spec)
index(find_shards([sys.argv[2]], tables=TableOptions(sys.argv[3])).shards, store, encoder, RunOptions(commit_rows=40))
"""
MANY = {
    "parquet": lambda p: (as_parquet(p / "s.parquet", 240, rows=30), ""),
    "npz": lambda p: (as_npz(p / "s.npz", 240), ""),
    "zip": lambda p: (as_zip(p / "s.zip", 240), ""),
    "csv": lambda p: (as_csv(p / "s.csv", 240), "file"),
    "lmdb": lambda p: (as_lmdb(p / "s.lmdb", 240), ""),
    "mds": lambda p: (as_mds(p / "s.mds", 240), ""),
}


@pytest.mark.parametrize(
    "door", [door if door == "parquet" else pytest.param(door, marks=pytest.mark.slow) for door in MANY]
)
def test_a_killed_run_goes_on_with_every_row_once_and_reads_no_stored_image_again(tmp_path, request, monkeypatch, door):
    source, column = MANY[door](tmp_path)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "db"), str(source), column],
                               cwd=request.config.rootpath)  # fmt: skip
    try:
        while process.poll() is None:
            with suppress(IndexerError):  # not made yet
                if EmbeddingStore.open(str(tmp_path / "db"), "t").count() >= 80:
                    break
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait(60)
    before = EmbeddingStore.open(str(tmp_path / "db")).count()
    assert 80 <= before < 240
    (shard,) = find_shards([str(source)], tables=TableOptions(column)).shards
    encoder = FakeEncoder()
    report = run(source, tmp_path / "db", encoder, {"image": column})
    assert report.embedded == 240 - before
    run(source, tmp_path / "whole", tables={"image": column})
    assert content(tmp_path / "db") == content(tmp_path / "whole")
    stored = {(s.member, s.offset) for s in read_shard(shard)}
    light = list(read_shard(replace(shard, stored=stored)))
    assert [s.image for s in light] == [b""] * 240
    assert [s.key for s in light] == [s.key for s in read_shard(shard)]


def test_rows_that_cannot_be_samples_are_failures_by_name(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": png(1), "path": "a/b.PNG"}, {"bytes": None, "path": "far.png"}, None, {"bytes": b"", "path": ""}]
    pq.write_table(pa.table({"image": pa.array(rows, kind), "id": ["x", "y", None, "z"]}), tmp_path / "s.parquet")
    (shard,) = find_shards([str(tmp_path / "s.parquet")], tables=TableOptions(key="id")).shards
    first, *others = read_shard(shard)
    assert (first.key, first.suffix, first.metadata) == ("x", "png", {"id": "x", "path": "a/b.PNG"})
    assert [(f.key, f.reason) for f in others] == [
        ("y", "image is not in the table"), ("s/2", "no image in the row"), ("z", "no image in the row"),
    ]  # fmt: skip


def test_class_numbers_get_the_names_that_the_file_states_and_odd_columns_are_named(tmp_path):
    """As `datasets` 3 writes them: a ClassLabel is a number, its names stand in the schema's metadata."""
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    table = pa.table({"image": pa.array([png(1), png(2)]), "label": [1, None], "Patient ID": ["p", "q"],
                      "boxes": [[1.0], [2.0]], "mask": pa.array([png(3)] * 2, pa.large_binary())})  # fmt: skip
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "s.parquet")
    with pytest.raises(InputError, match=r"2 columns of images: image, mask\. Name one: --image-column"):
        find_shards([str(tmp_path / "s.parquet")])
    found = find_shards([str(tmp_path / "s.parquet")], tables=TableOptions("image"))
    assert [s.metadata for s in read_shard(found.shards[0])] == [
        {"label": 1, "label_name": "dog", "patient_id": "p"}, {"patient_id": "q"},
    ]  # fmt: skip
    assert [note.partition(": ")[2] for note in found.notes] == [
        "column 'Patient ID' is stored as patient_id", "columns left out, not plain values: boxes, mask",
    ]  # fmt: skip


def test_a_table_without_images_says_which_columns_it_has_and_the_way_out(tmp_path):
    pq.write_table(pa.table({"url": ["x"], "n": [1]}), tmp_path / "s.parquet")
    (tmp_path / "s.csv").write_text("Path;grade\na.png;1\n")
    for name, columns in (("s.parquet", "url, n"), ("s.csv", "Path, grade")):
        done = call("indexer", "index", tmp_path / name, tmp_path / "db")
        assert (done.code, (tmp_path / "db").exists()) == (1, False)
        assert columns in done.err
        assert "--image-column" in done.err
    done = call("indexer", "index", tmp_path / "s.csv", tmp_path / "db", "--image-column", "path")
    assert "it has: Path, grade" in done.err
    as_tar(tmp_path / "s.tar", 1)
    done = call("indexer", "index", tmp_path / "s.tar", tmp_path / "db", "--image-column", "path")
    assert "none of" in done.err
    assert done.code == 1


def test_in_a_folder_a_parquet_of_images_is_a_shard_and_one_of_labels_is_told(tmp_path):
    as_parquet(tmp_path / "a.parquet", 3)
    pq.write_table(pa.table({"key": ["x"]}), tmp_path / "labels.parquet")
    np.savez(tmp_path / "weights.npz", w=np.zeros(3))
    found = find_shards([str(tmp_path)])
    assert [Path(s.url).name for s in found.shards] == ["a.parquet"]
    assert {note.partition(": ")[2] for note in found.notes} == {
        "Parquet file without images, 1: labels.parquet", "npz without arrays of images, 1: weights.npz",
    }  # fmt: skip


def test_listed_files_are_read_only_below_the_folder_that_the_user_named(tmp_path):
    (tmp_path / "secret.png").write_bytes(png(9))
    root = tmp_path / "set" / "images"
    (tmp_path / "set" / "tables").mkdir(parents=True)
    root.mkdir()
    (root / "a.png").write_bytes(png(1))
    (root / "empty.png").write_bytes(b"")
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    lines = ["a.png", str(root / "a.png"), "../../secret.png", str(tmp_path / "secret.png"), "out.png", "gone.png",
             "empty.png", "", "ftp://example.org/a.png", "."]  # fmt: skip
    table = tmp_path / "set" / "tables" / "list.csv"
    table.write_text("\n".join(["path,n", *(f"{line},{i}" for i, line in enumerate(lines))]))
    (shard,) = find_shards([str(table)], tables=TableOptions("path", "", str(root))).shards
    items = list(read_shard(shard))
    assert [i.metadata["n"] for i in items if isinstance(i, Sample)] == [0, 1]
    assert [i.reason for i in items if isinstance(i, Failure)] == [
        *["file outside the folder"] * 3, "unreadable file", "empty file",
        "no path in the row", "an address that is not fetched", "unreadable file",
    ]  # fmt: skip
    good = items[0]
    place = Place(shard.name, good.member, good.offset, good.nbytes, good.suffix)
    assert read_place(str(table), place, hashlib.sha256(png(1)).hexdigest(), roots=[str(tmp_path / "set")]) == png(1)
    with pytest.raises(ReadError, match="--pictures-from"):
        read_place(str(table), place, hashlib.sha256(png(1)).hexdigest(), roots=[str(table.parent)])
    forged = Place(shard.name, "../../secret.png", 0, good.nbytes, "png")
    with pytest.raises(ReadError, match="--pictures-from"):
        read_place(str(table), forged, hashlib.sha256(png(9)).hexdigest(), roots=[str(tmp_path / "set")])


def test_search_pages_show_pictures_of_a_listing_whose_images_lie_elsewhere(tmp_path):
    (tmp_path / "t").mkdir()
    as_csv(tmp_path / "s.csv", 5).rename(tmp_path / "t" / "s.csv")
    done = call("indexer", "index", tmp_path / "t" / "s.csv", tmp_path / "db", "--image-column", "file",
                "--image-root", tmp_path, "--json")  # fmt: skip
    assert done.json["embedded"] == 5, done.err
    found = call("indexer", "search", tmp_path / "db", "--key", "listed/00.ppm", "--html", tmp_path / "p.html")
    assert found.code == 0
    page = (tmp_path / "p.html").read_text()
    assert page.count("data:image") >= 5


@pytest.mark.parametrize("change", ["table", "file"])
def test_a_listing_changes_with_its_table_and_with_each_of_its_files(tmp_path, change):
    path = as_csv(tmp_path / "s.csv", 4)
    assert run(path, tmp_path / "db", tables={"image": "file"}).embedded == 4
    if change == "file":
        (tmp_path / "listed" / "02.ppm").write_bytes(ppm(pixels(9)[8]))
    else:
        path.write_text(path.read_text().replace("42.5", "43.5"))
    report = run(path, tmp_path / "db", tables={"image": "file"}, changed="replace")
    assert (report.embedded, report.reused) == (4, 3 if change == "file" else 4)


@pytest.mark.parametrize("cut", [0, -9])
def test_a_cut_parquet_has_lost_its_list_of_rows_and_is_no_parquet_file(tmp_path, cut):
    path = as_parquet(tmp_path / "s.parquet", N)
    path.write_bytes(path.read_bytes()[:cut])
    assert run(path, tmp_path / "db").reasons == {"not a Parquet file": 1}


@pytest.mark.parametrize("spoilt", ["page header", "values", "every page"])
def test_of_a_spoilt_parquet_the_rows_that_pyarrow_reads_are_stored_and_the_others_are_told(tmp_path, spoilt):
    path = as_parquet(tmp_path / "s.parquet", N, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    with pq.ParquetFile(path) as whole:
        groups = [whole.metadata.row_group(i) for i in range(whole.num_row_groups)]
        index = next(i for i in range(groups[0].num_columns) if groups[0].column(i).path_in_schema == "image.bytes")
    for group in groups[1:2] if spoilt != "every page" else groups:
        start = group.column(index).data_page_offset + (200 if spoilt == "values" else 0)
        data[start : start + 60] = b"\xff" * 60
    path.write_bytes(data)
    readable: dict[str, str] = {}
    with pq.ParquetFile(path) as file:
        row = 0
        for number in range(file.num_row_groups):
            count = file.metadata.row_group(number).num_rows
            with suppress(OSError, pa.ArrowException):
                images = file.read_row_group(number).column("image").to_pylist()
                readable |= {f"s/{row + i}": hashlib.sha256(v["bytes"]).hexdigest() for i, v in enumerate(images)}
            row += count
    assert len(readable) == {"page header": N - 7, "values": N, "every page": 0}[spoilt]  # values have no checksum
    report = run(path, tmp_path / "db")
    rows = EmbeddingStore.open(str(tmp_path / "db"), "t").vectors(columns=["key", "content"]).columns.to_pydict()
    stored = dict(zip(rows["key"], rows["content"], strict=True))
    assert stored.items() <= readable.items()
    lost = spoilt != "values"
    assert len(stored) + report.failed >= (7 if spoilt == "page header" else 1 if lost else N)  # all before the damage
    assert report.shards_partial == int(lost)
    assert list(report.reasons) == ["shard is cut or damaged"] * lost


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"train_images": np.zeros((2, 8, 8), np.float32)}, "Save it as uint8"),
        ({"train_images": np.zeros((2, 8, 8, 8, 8), np.uint8)}, "no array of images"),
        ({"train_images": np.zeros((2, 28, 28, 28), np.uint8)}, "Save volumes as NIfTI"),
        ({"train_images": np.zeros((2, 8, 8), np.uint8), "train_labels": np.zeros(3)}, "one value for each"),
        ({"train_images": np.asfortranarray(np.zeros((2, 8, 8), np.uint8))}, "in rows"),
        ({"vectors": np.zeros((2, 8))}, "holds no array of images: vectors float64"),
    ],
)  # fmt: skip
def test_an_npz_that_holds_no_images_we_read_is_told_by_its_arrays(tmp_path, arrays, words):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(InputError, match=words):
        find_shards([str(tmp_path / "s.npz")])


def test_medmnist_and_keras_layouts_become_split_and_label_columns(tmp_path):
    grey, colour = pixels(4)[..., 0], pixels(4)
    np.savez(tmp_path / "chest.npz", train_images=grey, train_labels=np.eye(4, 3, dtype=np.uint8), val_images=grey[:1],
             val_labels=np.ones((1, 3), np.uint8))  # fmt: skip
    np.savez_compressed(tmp_path / "cifar.npz", x_train=colour, y_train=np.arange(4), x_test=colour[:1], y_test=[9])
    rows = {}
    for name in ("chest", "cifar"):
        (shard,) = find_shards([str(tmp_path / f"{name}.npz")]).shards
        rows |= {s.key: s for s in read_shard(shard)}
    assert rows["chest/train/1"].metadata == {"split": "train", "label_0": 0, "label_1": 1, "label_2": 0}
    assert rows["chest/val/0"].image == b"P5\n24 24\n255\n" + grey[0].tobytes()
    assert (rows["cifar/train/3"].metadata, rows["cifar/test/0"].metadata) == (
        {"split": "train", "label": 3}, {"split": "test", "label": 9},
    )  # fmt: skip


def test_an_npz_with_objects_or_a_false_header_runs_nothing_and_is_told(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return marker.touch, ()

    np.savez(tmp_path / "s.npz", train_images=np.array([Evil(), Evil()], object).reshape(2, 1))
    with pytest.raises(InputError, match="cannot be read as images"):
        find_shards([str(tmp_path / "s.npz")])
    np.savez(tmp_path / "t.npz", train_images=np.zeros((2, 8, 8), np.uint8))
    data = (tmp_path / "t.npz").read_bytes()
    (tmp_path / "t.npz").write_bytes(data.replace(b"(2, 8, 8)", b"(9, 8, 8)"))
    (shard,) = find_shards([str(tmp_path / "t.npz")]).shards
    with pytest.raises(NotAnArchive):
        list(read_shard(shard))
    assert not marker.exists()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_npz_whose_compression_has_no_bound_is_told_before_it_is_unpacked(tmp_path, method):
    array = io.BytesIO()
    np.save(array, np.zeros((40, 1000, 1000), np.uint8))
    with zipfile.ZipFile(tmp_path / "s.npz", "w", method) as archive:
        archive.writestr("train_images.npy", array.getvalue())
    assert (tmp_path / "s.npz").stat().st_size < 20_000
    del array
    with peak_memory() as peak:
        (shard,) = find_shards([str(tmp_path / "s.npz")]).shards
        with pytest.raises(NotAnArchive, match=r"numpy\.savez"):
            list(read_shard(shard))
        assert peak() < 2e6


MEMORY = """
import sys
from indexer.archive.reader import read_shard
from indexer.archive.shards import find_shards
from tests.memory import most_resident
before = None
(shard,) = find_shards([sys.argv[1]]).shards
for i, sample in enumerate(read_shard(shard)):
    if i == 200:
        before = most_resident()
print(i + 1, most_resident() - before)
"""


@pytest.mark.parametrize("how", ["one row group", "one dictionary value"])
def test_a_parquet_of_one_large_row_group_is_read_in_flat_memory(tmp_path, how, request):
    n, one = 60_000, np.random.default_rng(0).bytes(2000)
    image = pa.array([one] * n) if how == "one dictionary value" else pa.array(
        [one[i % 1000 :] + str(i).encode() for i in range(n)]
    )  # fmt: skip
    pq.write_table(pa.table({"image": image, "n": range(n)}), tmp_path / "s.parquet", row_group_size=n)
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path / "s.parquet")], capture_output=True, text=True,
                          cwd=request.config.rootpath, check=True)  # fmt: skip
    rows, grown = map(int, done.stdout.split())
    assert rows == n
    assert grown < 30e6  # of 120 MB


@pytest.mark.slow
def test_a_million_rows_of_parquet_are_read_in_flat_memory(tmp_path, request):
    rng, kind = np.random.default_rng(0), pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", kind), ("n", pa.int64())])
    with pq.ParquetWriter(tmp_path / "s.parquet", schema) as writer:
        for start in range(0, 1_000_000, 10_000):
            image = [{"bytes": b"P5\n16 16\n255\n" + rng.bytes(256), "path": None} for _ in range(10_000)]
            rows = {"image": pa.array(image, kind), "n": range(start, start + 10_000)}
            writer.write_table(pa.table(rows, schema), row_group_size=10_000)
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path / "s.parquet")], capture_output=True, text=True,
                          cwd=request.config.rootpath, check=True)  # fmt: skip
    rows, grown = map(int, done.stdout.split())
    assert rows == 1_000_000
    assert grown < 30e6  # of 275 MB; 8 MB when it was measured
