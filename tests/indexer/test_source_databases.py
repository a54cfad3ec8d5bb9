"""LMDB databases and MDS files, written by the `lmdb` package and by the layout of streaming's MDSWriter."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import subprocess
import sys
from dataclasses import replace

import lmdb
import numpy as np
import pytest

from indexer.archive.reader import read_place, read_shard
from indexer.archive.shards import find_shards
from indexer.archive.tables.named import TableOptions
from indexer.errors import CutShard, InputError, NotAnArchive, ReadError
from indexer.types import Failure, Place, Sample
from tests.archives import png
from tests.commands import call
from tests.sources import as_lmdb, as_mds, mds_file, pixels, ppm


def items(source, tables=None):
    return [
        item
        for shard in find_shards([str(source)], tables=tables or TableOptions()).shards
        for item in read_shard(shard)
    ]


def written(path, entries, **options):
    path.parent.mkdir(exist_ok=True)
    with lmdb.open(str(path), map_size=1 << 26, **options) as database, database.begin(write=True) as change:
        for key, value in entries.items():
            change.put(key, value)
    return path


def test_an_lmdb_of_many_pages_gives_each_value_and_its_place_whatever_its_size(tmp_path):
    rng = np.random.default_rng(0)
    values = {f"{i:05d}.png".encode(): rng.bytes(int(rng.integers(1, 9000))) for i in range(3000)}
    source = written(tmp_path / "d", dict(sorted(values.items(), key=lambda item: hashlib.sha256(item[0]).digest())))
    found = items(source)
    assert [s.key for s in found] == [key.decode() for key in sorted(values)]
    file = (source / "data.mdb").read_bytes()
    for sample in found:
        assert sample.image == values[sample.key.encode()]
        assert file[sample.offset : sample.offset + sample.nbytes] == sample.image
    with lmdb.open(str(source), map_size=1 << 26) as database, database.begin(write=True) as change:
        for key in list(values)[::2]:
            change.delete(key)
    assert [s.key for s in items(source)] == [key.decode() for key in sorted(set(values) - set(list(values)[::2]))]


def test_labels_sidecars_and_entries_that_are_no_images_of_an_lmdb(tmp_path):
    entries = {
        b"image-000000001": png(1), b"label-000000001": "wörd".encode(), b"num-samples": b"2",
        b"image-000000002": png(2), b"a/b.png": png(3), b"a/b.json": b'{"age": 3}',
        b"tuple": pickle.dumps((png(4), 1)), b"empty": b"",
    }  # fmt: skip
    source = written(tmp_path / "one.lmdb", entries, subdir=False)
    found = {item.key: item for item in items(source)}
    assert {key: (f.reason) for key, f in found.items() if isinstance(f, Failure)} == {
        "tuple": "a pickle, which can run code", "empty": "empty file",
    }  # fmt: skip
    assert {key: s.metadata for key, s in found.items() if isinstance(s, Sample)} == {
        "image-000000001": {"label": "wörd"}, "image-000000002": {}, "a/b.png": {"age": 3, "folder": "a"},
    }  # fmt: skip
    assert "num-samples counts the others" in " ".join(find_shards([str(source)]).notes)


def test_a_database_inside_the_database_is_told_by_name(tmp_path):
    with lmdb.open(str(tmp_path / "d"), map_size=1 << 24, max_dbs=2) as database:
        inner = database.open_db(b"inner")
        with database.begin(write=True) as change:
            change.put(b"x.png", png(1))
            change.put(b"y", png(1), db=inner)
    by_key = {item.key: item for item in items(tmp_path / "d")}
    assert by_key["inner"].reason == "a database inside the database"
    assert by_key["x.png"].image == png(1)


FUZZ = """
import random, sys
from pathlib import Path
from indexer.archive.reader import read_shard
from indexer.archive.shards import find_shards
from indexer.errors import IndexerError
source, out, seed = sys.argv[1:]
data, rng = Path(source).read_bytes(), random.Random(int(seed))
ended = 0
for turn in range(300):
    spoilt = bytearray(data)
    for _ in range(rng.choice([1, 4, 40])):
        page = 4096 * rng.randrange(len(data) // 4096 + 1)
        place = rng.choice([rng.randrange(len(data)), rng.randrange(200), page + rng.randrange(64)])
        spoilt[place % len(data)] = rng.randrange(256)
    if turn % 7 == 0:
        del spoilt[rng.randrange(len(spoilt)):]
    Path(out).write_bytes(spoilt)
    try:
        for shard in find_shards([out]).shards:
            for item in read_shard(shard):
                assert len(getattr(item, "image", b"")) <= len(data)
    except IndexerError as error:
        ended += 1
        assert "\\n" not in str(error), error
assert ended > 20, ended
"""


@pytest.mark.parametrize("kind", ["lmdb", "mds"])
def test_spoilt_databases_end_in_one_line_and_never_in_the_process(tmp_path, kind, request):
    source = as_lmdb(tmp_path / "x.lmdb", 40) if kind == "lmdb" else as_mds(tmp_path / "x.mds", 40)
    subprocess.run([sys.executable, "-c", FUZZ, str(source), str(tmp_path / f"y.{kind}"), "7"], check=True,
                   cwd=request.config.rootpath)  # fmt: skip


def test_a_circle_of_pages_ends(tmp_path):
    values = {f"{i:05d}".encode(): bytes(1000) for i in range(400)}
    source = written(tmp_path / "d", values) / "data.mdb"
    data = bytearray(source.read_bytes())
    roots = [struct.unpack_from("<Q", data, meta + 16 + 24 + 48 + 40)[0] for meta in (0, 4096)]
    root = max(page for page in roots if page != 2**64 - 1)
    for place in struct.unpack_from("<2H", data, root * 4096 + 16):
        struct.pack_into("<HHH", data, root * 4096 + place, root, 0, 0)  # each child is the page itself
    source.write_bytes(data)
    with pytest.raises(CutShard, match="damaged"):
        items(source)


@pytest.mark.parametrize("compress", ["", "zstd", "gz"])
def test_an_mds_file_gives_the_columns_of_its_samples_and_its_images_by_reference(tmp_path, compress):
    columns = {
        "age": ("float32", 40.5), "id": ("str", "p1"), "n": ("int", 7), "zero": ("int", 0), "img": ("png", png(1)),
        "box": ("ndarray", b"??"), "odd": ("pkl", pickle.dumps(1)), "big": ("str_int", "123456789012345678901"),
        "extra": ("json", '{"a": [1]}'),
    }  # fmt: skip
    source = mds_file(tmp_path / "train" / "shard.00000.mds", [columns] * 3, compress=compress)
    found = find_shards([str(tmp_path)])
    (shard,) = found.shards
    assert "columns left out, not plain values: box (ndarray), odd (pkl)" in " ".join(found.notes)
    samples = list(read_shard(shard))
    assert [s.key for s in samples] == [f"train/shard.00000/{i}" for i in range(3)]
    assert samples[2].metadata == {
        "split": "train",
        "age": 40.5,
        "id": "p1",
        "n": 7,
        "zero": 0,
        "big": 123456789012345678901,
        "extra": {"a": [1]},
    }
    place = Place(shard.name, samples[2].member, samples[2].offset, samples[2].nbytes, samples[2].suffix)
    assert read_place(str(source), place, hashlib.sha256(png(1)).hexdigest(), roots=[str(tmp_path)]) == png(1)
    light = list(read_shard(replace(shard, stored={(s.member, s.offset) for s in samples[:2]})))
    assert [bool(s.image) for s in light] == [False, False, True]
    for column, key in (("id", "p1"), ("zero", "0")):
        (keyed,) = find_shards([str(source)], tables=TableOptions(key=column)).shards
        assert next(read_shard(keyed)).key == key


def test_raw_pixels_of_an_mds_are_those_of_a_ppm_and_other_encodings_are_told(tmp_path):
    pixel = pixels(1)[0]
    raw = struct.pack("<III", 24, 24, 3) + b"RGB" + pixel.tobytes()
    short = struct.pack("<III", 24, 24, 3) + b"RGB" + pixel.tobytes()[1:]
    source = mds_file(tmp_path / "a.mds", [{"x": ("pil", raw)}, {"x": ("pil", short)}])
    good, bad = items(source)
    assert (good.image, good.suffix, bad.reason) == (ppm(pixel), "ppm", "bad sample")
    (shard,) = find_shards([str(source)]).shards
    place = Place(shard.name, good.member, good.offset, good.nbytes, good.suffix)
    assert read_place(str(source), place, hashlib.sha256(good.image).hexdigest()) == good.image
    for columns, words in (
        ({"x": ("pkl", b"")}, "hold no image: x (pkl)"),
        ({"x": ("jpeg", b""), "y": ("jpeg:90", b"")}, "2 columns of images"),
    ):
        mds_file(tmp_path / "b.mds", [columns])
        with pytest.raises(InputError) as error:
            find_shards([str(tmp_path / "b.mds")])
        assert words in str(error.value)
    (tmp_path / "c.mds").write_bytes(b"no header")
    with pytest.raises(NotAnArchive):
        items(tmp_path / "c.mds")
    data = source.read_bytes()
    source.write_bytes(data[:-9])
    with pytest.raises(ReadError, match="breaks off at row 1"):
        items(source)


def test_the_command_reads_a_folder_as_streaming_and_lmdb_write_it(tmp_path):
    written(tmp_path / "l" / "train", {f"{i}".encode(): png(i) for i in range(3)})
    for split in ("train", "val"):
        mds_file(
            tmp_path / "m" / split / "shard.00000.mds",
            [{"image": ("png", png(i)), "label": ("int", i)} for i in range(3)],
        )
        (tmp_path / "m" / split / "index.json").write_text(json.dumps({"version": 2, "shards": []}))
    done = call("indexer", "index", tmp_path / "l" / "train", tmp_path / "db", "--json")
    assert (done.json["embedded"], done.json["failed"]) == (3, 0), done.err
    mds_file(tmp_path / "m" / "text" / "shard.00000.mds", [{"text": ("str", "no picture")}])
    done = call("indexer", "index", tmp_path / "m", tmp_path / "db2", "--json")
    assert (done.json["embedded"], done.json["failed"]) == (6, 0), done.err
    assert "MDS file without images, 1: text/shard.00000.mds" in done.err
