"""Zip archives: read like the folder they unpack to, without unpacking them; what cannot be read is named."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
import zipfile
import zlib

import pytest

from indexer.archive.reader import read_place, read_shard
from indexer.archive.shards import find_shards
from indexer.errors import InputError, NotAnArchive, ReadError
from indexer.pipeline import worker
from indexer.pipeline.options import RunOptions
from indexer.pipeline.retry import retry
from indexer.pipeline.run import index
from indexer.store.table import EmbeddingStore
from indexer.types import Failure, Place, Sample
from tests.archives import png, write_tar
from tests.commands import call
from tests.decoding import decode_by
from tests.fakes import FakeEncoder
from tests.pictures import deep, dicom

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def write_zip(path, members, method=DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return path


def found(source):
    return [item for shard in find_shards([str(source)]).shards for item in read_shard(shard)]


def write_tree(root, members):
    for name, data in members:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


TREE = [
    ("ill/a.png", png(1)), ("ill/a.json", b'{"age": 3}'), ("ill/b.PNG", png(2)), ("well/a.png", png(3)),
    ("été.png", png(4)), ("scan.IMA", dicom(deep(8, 8))), ("IM0001", dicom(deep(9, 9))),
    ("alone.json", b"{}"), ("notes.txt", b"x"), (".DS_Store", b"x"), ("__MACOSX/ill/._a.png", b"x"),
]  # fmt: skip


@pytest.mark.parametrize("method", [STORED, DEFLATED, zipfile.ZIP_LZMA])
def test_a_zip_reads_like_the_folder_it_unpacks_to_and_gives_each_image_back(tmp_path, method):
    path = write_zip(tmp_path / "s.zip", TREE, method)
    folder = write_tree(tmp_path / "in", TREE)
    facts = lambda items: {s.key: (s.suffix, s.image, s.metadata) for s in items}  # noqa: E731
    inside = found(path)
    assert facts(inside) == facts(found(folder))
    for s in inside:
        place = Place(s.shard, s.member, s.offset, s.nbytes, s.suffix)
        assert read_place(str(path), place, hashlib.sha256(s.image).hexdigest(), roots=[str(tmp_path)]) == s.image
    strip = lambda notes, name: [note.removeprefix(name) for note in notes]  # noqa: E731
    assert strip(find_shards([str(path)]).notes, f"not read in {path}: ") == strip(
        find_shards([str(folder)]).notes, f"not read under {folder}: "
    )


def test_a_zip_of_another_program_with_streamed_sizes_reads_the_same(tmp_path):
    """`zipfile` into a pipe writes sizes behind the data (APPNOTE 4.3.9), as tools that stream do."""
    reader, writer = os.pipe()
    script = (
        "import sys, zipfile\nwith zipfile.ZipFile(sys.stdout.buffer, 'w', 8) as z:\n"
        f"  z.writestr('a.png', {png(1)!r}); z.writestr('b.png', {png(2)!r}, 0)"
    )
    with (tmp_path / "s.zip").open("wb") as out:
        maker = subprocess.Popen([sys.executable, "-c", script], stdout=writer)
        os.close(writer)
        while block := os.read(reader, 1 << 16):
            out.write(block)
        assert maker.wait() == 0
    os.close(reader)
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        assert all(info.flag_bits & 8 for info in archive.infolist())
    samples = found(tmp_path / "s.zip")
    assert [s.image for s in samples] == [png(1), png(2)]
    for s in samples:
        place = Place(s.shard, s.member, s.offset, s.nbytes, s.suffix)
        assert read_place(s.shard, place, hashlib.sha256(s.image).hexdigest()) == s.image


def edited(data: bytes, name: bytes, field: int, value: bytes) -> bytes:
    """A zip with bytes of a member's entry in the directory replaced; `field` as APPNOTE 4.3.12 counts."""
    out = bytearray(data)
    at = data.index(name, data.index(b"PK\x01\x02")) - 46
    out[at + field : at + field + len(value)] = value
    return bytes(out)


def test_each_hostile_member_is_a_failure_by_name_and_the_others_are_rows(tmp_path):
    path = tmp_path / "s.zip"
    inner = write_tar(tmp_path / "inner.tar", [("x.png", png(9))]).read_bytes()
    members = [("a.png", png(1)), ("locked.png", png(2)), ("huge.png", png(3)), ("lies.png", b"\0" * 5_000_000)]
    members += [("bomb.png", b"\0" * 100), ("odd.png", png(4)), ("inner.tar", inner), ("bad.png", png(5))]
    write_zip(path, [*members, ("z.png", png(6))])
    data = path.read_bytes()
    data = edited(data, b"locked.png", 8, b"\x01\x00")
    data = edited(data, b"huge.png", 24, struct.pack("<L", 3 << 30))
    data = edited(data, b"lies.png", 24, struct.pack("<L", 70))  # five million bytes behind a header of seventy
    data = edited(data, b"bomb.png", 24, struct.pack("<L", 300 << 20))
    data = edited(data, b"odd.png", 10, struct.pack("<H", 9))
    data = edited(data, b"bad.png", 16, b"\0\0\0\0")
    path.write_bytes(data)
    items = found(path)
    assert {i.key: i.reason for i in items if isinstance(i, Failure)} == {
        "locked.png": "encrypted member", "huge.png": "member too large", "bomb.png": "decompression bomb",
        "odd.png": "unknown compression", "inner.tar": "archive inside an archive", "bad.png": "damaged member",
        "lies.png": "damaged member",
    }  # fmt: skip
    assert [i.key for i in items if isinstance(i, Sample)] == ["a.png", "z.png"]


def test_a_member_that_inflates_beyond_its_header_takes_no_memory(tmp_path):
    """64 MB of zeros behind a header that says 70 bytes: reading, and reading back, stop at what was said."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = deflate.compress(b"\0" * (64 << 20)) + deflate.flush()
    write_zip(tmp_path / "s.zip", [("a.png", b"\0" * 70)])
    with zipfile.ZipFile(tmp_path / "s.zip", "w", DEFLATED) as archive:
        archive.writestr("a.png", b"\0" * (64 << 20))
    data = edited((tmp_path / "s.zip").read_bytes(), b"a.png", 24, struct.pack("<L", 70))
    assert body[:1000] in data
    (tmp_path / "s.zip").write_bytes(data)
    script = (
        "import sys; from tests.memory import most_resident; from indexer.archive.shards import find_shards\n"
        "from indexer.archive.reader import read_shard\n"
        "from indexer.archive.zip import Zip; from indexer.types import Place\n"
        "before = most_resident()\n"
        "(shard,) = find_shards([sys.argv[1]]).shards\nprint([i.reason for i in read_shard(shard)])\n"
        "Zip().read_back(sys.argv[1], Place('', 'a.png', 0, 70, 'png'), None)\n"
        "print(most_resident() - before)"
    )
    out = subprocess.run([sys.executable, "-c", script, str(tmp_path / "s.zip")], capture_output=True, text=True)
    reasons, grown = out.stdout.splitlines()
    assert reasons == "['damaged member']", out.stderr
    assert int(grown) < 20e6  # of 64 MiB


@pytest.mark.parametrize("content", [b"PK\x03\x04 and no more", b"", b"words"])
def test_what_is_no_zip_is_told_as_one(tmp_path, content):
    (tmp_path / "s.zip").write_bytes(content)
    (shard,) = find_shards([str(tmp_path / "s.zip")]).shards
    with pytest.raises(NotAnArchive, match="not a whole zip archive"):
        list(read_shard(shard))


def test_a_cut_zip_is_partial_and_the_rest_of_the_archive_is_read(tmp_path):
    whole = write_zip(tmp_path / "a.zip", [("a/1.png", png(1))])
    (tmp_path / "b.zip").write_bytes(write_zip(tmp_path / "b.zip", [("b/1.png", png(2))]).read_bytes()[:-30])
    done = call("indexer", "index", whole, tmp_path / "b.zip", tmp_path / "db", "--json")
    assert done.code == 1
    assert (done.json["embedded"], done.json["reasons"]) == (1, {"not a zip archive": 1})


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.h5", b"\x89HDF\r\n\x1a\n" + b"x" * 600, "an HDF5 file"), ("x", b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        ("x.7z", b"7z\xbc\xaf\x27\x1c", "a 7z archive"), ("x.npy", b"\x93NUMPY\1\0", r"\.npz"),
        ("x.xlsx", b"PK\3\4", "spreadsheet"), ("x.pkl", b"\x80\4", "can run code"),
        ("x.foo", b"anything" * 99, "tar, zip, Parquet, npz, LMDB or MDS"), ("x.jsonl", b"{}", "text"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_told_by_name_with_the_way_out_before_anything_is_written(
    tmp_path, name, content, words
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        find_shards([str(tmp_path / name)])
    done = call("indexer", "index", tmp_path / name, tmp_path / "db")
    assert (done.code, done.out, (tmp_path / "db").exists()) == (1, "", False)
    assert "tar archive" not in done.err


def test_a_remote_zip_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="zip archive is read from a local disk only"):
        find_shards(["https://example.org/a.zip"])


def test_a_zip_without_images_says_what_it_holds(tmp_path):
    path = write_zip(tmp_path / "s.zip", [("labels.csv", b"x"), ("read.me", b"y")])
    done = call("indexer", "index", path, tmp_path / "db")
    assert done.code == 1
    assert "neither image nor shard, 2: labels.csv, read.me" in done.err


def run(path, db, encoder=None, **options):
    encoder = encoder or FakeEncoder()
    store = EmbeddingStore.create(str(db), "t", encoder.spec)
    return index(find_shards([str(path)]).shards, store, encoder, RunOptions(**options))


def test_a_changed_zip_keeps_the_vectors_of_equal_images_and_failures_are_retried(tmp_path, monkeypatch):
    bad = b"\x89PNG\r\n\x1a\nno"
    path = write_zip(tmp_path / "s.zip", [("a.png", png(1)), ("b.png", bad)])
    assert (run(path, tmp_path / "db").embedded, run(path, tmp_path / "db").shards_skipped) == (1, 1)
    write_zip(path, [("a.png", png(1)), ("b.png", bad), ("c.png", png(3))])
    report = run(path, tmp_path / "db", changed="replace")
    assert (report.embedded, report.reused, report.failed) == (2, 1, 1)
    real = worker.decode_missing
    decode_by(monkeypatch, lambda _, *rest, **named: real(png(2), *rest, **named))
    store = EmbeddingStore.open(str(tmp_path / "db"))
    assert retry(store, FakeEncoder(), roots=[str(tmp_path)]).embedded == 1
    store.refresh()
    assert (store.count(), store.failures().num_rows) == (3, 0)


def test_a_member_replaced_under_a_stored_row_is_never_shown(tmp_path):
    path = write_zip(tmp_path / "s.zip", [("a.png", png(1))])
    (s,) = found(path)
    place = Place(s.shard, s.member, s.offset, s.nbytes, s.suffix)
    write_zip(path, [("a.png", png(2))])
    with pytest.raises(ReadError, match=r"s\.zip"):
        read_place(str(path), place, hashlib.sha256(s.image).hexdigest())


def test_a_folder_of_zips_is_read_as_shards(tmp_path):
    for i in range(3):
        write_zip(tmp_path / f"{i}.zip", [(f"s{i}/a.png", png(i))])
    assert [s.key for s in found(tmp_path)] == ["s0/a.png", "s1/a.png", "s2/a.png"]
