"""From an archive to a table by the command lines: every file is a row or a failure with its reason."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.commands import call
from tests.pictures import DICOM, deep, dicom, encoded, listed, scene


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> tuple[Path, Path, dict]:
    """(folder, shards, pack's report) of pydicom's own test files."""
    folder = tmp_path_factory.mktemp("archive")
    done = call("indexer", "pack", DICOM, folder / "shards", "--secret", folder / "secret", "--new-secret", "--json")
    assert done.code == 0, done.err
    return folder, folder / "shards", done.json


def test_every_file_of_pydicoms_archive_is_a_row_or_a_failure_with_its_reason(archive):
    folder, shards, packed = archive
    done = call("indexer", "index", shards, folder / "first", "--frames", "first", "--max-failures", 1, "--json")
    report = done.json
    assert done.code == 0, done.err
    files = sum(1 for path in DICOM.rglob("*") if path.is_file())
    assert packed["packed"] + sum(packed["left_out"].values()) == packed["files"] == files
    assert report["embedded"] + report["failed"] == report["images"] == packed["packed"]
    failures = call("indexer", "failures", folder / "first", "--json").json
    assert Counter(f["reason"] for f in failures) == report["reasons"]
    keys = {row["key"] for row in listed(shards).values() if row["key"]}
    failed = {f["key"] for f in failures}
    assert failed < keys
    assert report["embedded"] == len(keys - failed) > 70
    assert all(f["detail"] for f in failures)


def test_frames_of_a_cine_are_rows_of_their_own_and_the_sum_still_holds(archive):
    folder, shards, packed = archive
    report = call("indexer", "index", shards, folder / "all", "--max-failures", 1, "--json").json
    first = call("indexer", "index", shards, folder / "first", "--frames", "first", "--max-failures", 1, "--json").json
    assert report["embedded"] + report["failed"] == report["images"] > packed["packed"] + 29  # a cine has 30 frames
    assert first["shards_skipped"] + first["shards_done"] == packed["shards"]


def test_volumes_are_cut_across_the_plane_asked_for_and_planes_never_mix(tmp_path):
    import nibabel

    source = tmp_path / "in"
    source.mkdir()
    volume = np.random.default_rng(0).integers(0, 900, (4, 5, 6)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), source / "v.nii.gz")
    prints = set()
    for plane, slices in (("axial", 6), ("coronal", 5), ("sagittal", 4)):
        report = call("indexer", "index", source, tmp_path / "db", "--table", plane, "--plane", plane, "--json").json
        assert (report["embedded"], report["failed"]) == (slices, 0)
        prints.add(report["fingerprint"])
    assert len(prints) == 3
    mixed = call("indexer", "index", source, tmp_path / "db", "--table", "axial", "--plane", "coronal")
    assert (mixed.code, mixed.err.count("\n")) == (1, 1)
    asked = call("indexer", "search", tmp_path / "db", source / "v.nii.gz", "--table", "coronal", "-k", 1)
    assert asked.code == 0, asked.err
    assert asked.out.split()[-1] == "v.nii.gz#2"  # the query is cut in the table's plane: its middle slice is a row


def test_a_folder_of_images_is_indexed_without_packing(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name, data in (("a.png", encoded(scene(40, 40), "PNG")), ("sub/b.dcm", dicom(deep(30, 30))),
                       ("sub/c.jpg", b"no image")):  # fmt: skip
        (tmp_path / "in" / name).write_bytes(data)
    report = call("indexer", "index", tmp_path / "in", tmp_path / "db", "--max-failures", 1, "--json").json
    assert (report["embedded"], report["failed"]) == (2, 1)
    assert report["reasons"] == {"not an image": 1}


@pytest.mark.parametrize("window", ["lnug", "40,0", "lung;bone", ""])
def test_a_mistyped_window_is_one_line_and_makes_no_table(tmp_path, window):
    (tmp_path / "a.dcm").write_bytes(dicom(deep(30, 30)))
    done = call("indexer", "index", tmp_path, tmp_path / "db", "--window", window)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert f'--window "{window}"' in done.err
    assert not (tmp_path / "db").exists()


def test_columns_of_a_packed_table_can_be_filtered_by_after_indexing(tmp_path):
    (tmp_path / "in").mkdir()
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "sex", "age"))
        for number in range(4):
            (tmp_path / "in" / f"{number}.png").write_bytes(encoded(scene(40, 40 + number), "PNG"))
            writer.writerow((f"{number}.png", "MF"[number % 2], 40 + 10 * number))
    done = call("indexer", "pack", tmp_path / "in", tmp_path / "shards", "--csv", tmp_path / "labels.csv")
    assert done.code == 0, done.err
    assert call("indexer", "index", tmp_path / "shards", tmp_path / "db").code == 0
    found = call("indexer", "search", tmp_path / "db", "--key", "0", "--where", "sex = 'F' and age > 50", "--json")
    assert "3" in found.out
    assert found.code == 0, found.err
