"""Images of several parts in an archive: their rows, keys and columns, and what a changed shard keeps of them."""

from __future__ import annotations

import io

import nibabel
import numpy as np
import pyarrow as pa
import pydicom
import pytest
from PIL import Image

from indexer.archive.shards import find_shards
from indexer.errors import InputError
from indexer.pipeline.run import RunOptions, index
from indexer.store.labelling.join import add_columns
from indexer.store.table import EmbeddingStore
from tests.archives import picture, png, shard, write_tar
from tests.fakes import FakeEncoder
from tests.pictures import damaged_pages, dicom, encoded, tiff


def run(source, db, encoder=None, options=None):
    encoder = encoder or FakeEncoder()
    store = EmbeddingStore.create(str(db), "t", encoder.spec)
    return index(find_shards([str(source)]).shards, store, encoder, options)


def vectors(db):
    got = EmbeddingStore.open(str(db)).vectors(columns=["key", "norm"])
    keys, norms = got.columns["key"].to_pylist(), got.columns["norm"].to_pylist()
    return {key: (vector.tolist(), norm) for key, vector, norm in zip(keys, got.vectors, norms, strict=True)}


def multi_page(kind, count=5):
    """A file of several parts of that kind, each another picture, and its ending."""
    pages = np.stack([picture(i)[..., 0] for i in range(count)])
    if kind == "gif":
        first, *rest = [Image.fromarray(page) for page in pages]
        return encoded(first, "GIF", save_all=True, append_images=rest, duration=100), "gif"
    if kind == "dicom":
        return dicom(pages, NumberOfFrames=count, FrameTime="40"), "dcm"
    if kind == "compressed dicom":
        dataset, file = pydicom.dcmread(io.BytesIO(dicom(pages, NumberOfFrames=count, FrameTime="40"))), io.BytesIO()
        dataset.compress("1.2.840.10008.1.2.4.80")
        dataset.save_as(file)
        return file.getvalue(), "dcm"
    if kind == "nifti":
        volume = nibabel.Nifti1Image(np.moveaxis(pages, 0, -1).astype(np.int16), np.diag([1, 1, 2.5, 1]))
        return volume.to_bytes(), "nii"
    return tiff(pages, photometric="minisblack"), "tif"


def stored_keys(db):
    """In the table's order."""
    return [key for batch in EmbeddingStore.open(str(db)).scan(["key"]) for key in batch.column("key").to_pylist()]


def test_a_changed_shard_keeps_the_failure_of_a_damaged_page(tmp_path):
    members = [("pages.tif", damaged_pages(4, damaged=2)), ("one.png", png(1))]
    path = write_tar(tmp_path / "s.tar", members)
    before = run(path, tmp_path / "db")
    assert (before.embedded, before.failed) == (3, 1)
    write_tar(path, [*members, ("two.png", png(2))])
    after = run(path, tmp_path / "db", options=RunOptions(changed="replace"))
    assert (after.embedded, after.failed, after.reused, after.reasons) == (4, 1, 3, before.reasons)
    assert stored_keys(tmp_path / "db") == ["pages", "pages#1", "one", "two"]
    assert [f["key"] for f in EmbeddingStore.open(str(tmp_path / "db")).failures().to_pylist()] == ["pages"]


@pytest.mark.parametrize("kind", ["gif", "tiff", "dicom", "compressed dicom", "nifti"])
def test_all_parts_are_stored_where_the_first_alone_was_and_the_first_is_not_embedded_again(tmp_path, kind):
    data, suffix = multi_page(kind)
    path = write_tar(tmp_path / "s.tar", [(f"a.{suffix}", data)])
    run(path, tmp_path / "db", options=RunOptions(frames="first"))
    assert stored_keys(tmp_path / "db") == ["a"]
    (first,) = vectors(tmp_path / "db").values()
    write_tar(path, [(f"a.{suffix}", data), ("b.png", png(9))])
    encoder = FakeEncoder()
    report = run(path, tmp_path / "db", encoder, RunOptions(changed="replace", frames="all"))
    assert (report.embedded, report.reused, report.failed) == (6, 1, 0)
    assert stored_keys(tmp_path / "db") == ["a", "a#1", "a#2", "a#3", "a#4", "b"]
    run(path, tmp_path / "fresh")
    assert vectors(tmp_path / "db") == vectors(tmp_path / "fresh")
    assert vectors(tmp_path / "db")["a"] == first


@pytest.mark.parametrize("kind", ["gif", "dicom", "nifti"])
def test_the_middle_part_replaces_all_where_it_alone_is_wanted(tmp_path, kind):
    data, suffix = multi_page(kind)
    path = write_tar(tmp_path / "s.tar", [(f"a.{suffix}", data)])
    run(path, tmp_path / "db")
    write_tar(path, [(f"a.{suffix}", data), ("b.png", png(9))])
    report = run(path, tmp_path / "db", options=RunOptions(changed="replace", frames="middle"))
    assert (report.embedded, report.reused) == (2, 1)
    assert stored_keys(tmp_path / "db") == ["a#2", "b"]


def test_parts_stand_in_the_files_order_also_where_some_were_kept_and_others_embedded(tmp_path):
    data, suffix = multi_page("tiff", 12)
    path = write_tar(tmp_path / "s.tar", [(f"a.{suffix}", data)])
    run(path, tmp_path / "db", options=RunOptions(frames="middle"))
    write_tar(path, [(f"a.{suffix}", data), ("b.png", png(9))])
    run(path, tmp_path / "db", FakeEncoder(batch_size=5), RunOptions(changed="replace"))
    assert stored_keys(tmp_path / "db") == ["a", *(f"a#{n}" for n in range(1, 12)), "b"]


def test_rows_are_filtered_by_the_facts_of_their_parts(tmp_path):
    volume, gif = multi_page("nifti")[0], multi_page("gif")[0]
    path = write_tar(tmp_path / "s.tar", [("v.nii", volume), ("c.gif", gif), ("one.png", png(9))])
    run(path, tmp_path / "db")
    store = EmbeddingStore.open(str(tmp_path / "db"))
    assert {name: str(kind) for name, kind in store.columns().items()} == {"part_z": "double", "part_time": "double"}

    def keys(where):
        return sorted(k for b in store.scan(["key"], where) for k in b.column("key").to_pylist())

    assert keys("part_z between 2 and 6") == ["v#1", "v#2"]
    assert keys("part_time >= 0.3") == ["c#3", "c#4"]
    assert keys("part_z is null and part_time is null") == ["one"]
    cine = write_tar(tmp_path / "t.tar", [("d.dcm", multi_page("dicom")[0])])
    run(cine, tmp_path / "db")
    store.refresh()
    assert keys("part_frame > 2") == ["d#3", "d#4"]
    assert keys("part_time > 0.1 and part_frame is not null") == ["d#3", "d#4"]
    assert sum(b.num_rows for b in store.scan(["part_frame"], "part_frame is null")) == 11


def test_metadata_fields_named_as_the_columns_of_parts_stay_in_meta(tmp_path):
    sidecar = b'{"part": "left", "part_z": 3.5, "part_of": "a study", "partner": "kept"}'
    members = [("v.nii", multi_page("nifti")[0]), ("v.json", sidecar), ("b.png", png(1)), ("b.json", sidecar)]
    path = write_tar(tmp_path / "s.tar", members)
    report = run(path, tmp_path / "db")
    store = EmbeddingStore.open(str(tmp_path / "db"))
    assert set(store.columns()) == {"part_z", "partner"}
    taken = "name is taken by the table"
    assert report.columns_skipped == {f"part: {taken}": 6, f"part_z: {taken}": 6, f"part_of: {taken}": 6}
    found = {row["key"]: row["part_z"] for b in store.scan(["key", "part_z"]) for row in b.to_pylist()}
    assert (found["v#2"], found["b"]) == (5.0, None)


@pytest.mark.parametrize("name", ["part", "part_z", "part_of"])
def test_a_label_column_named_as_a_column_of_parts_is_refused(tmp_path, name):
    run(shard(tmp_path / "s.tar", [1]), tmp_path / "db")
    with pytest.raises(InputError, match=f"'{name}' cannot be a label column"):
        add_columns(EmbeddingStore.open(str(tmp_path / "db")), pa.table({"key": ["im1"], name: [1]}))
