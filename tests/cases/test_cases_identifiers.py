"""Faults found by use with identifiers of patients (U5, U6, U7): hashes in tables, plain ids in files at hand."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from indexer.pack.headers.secret import KeyedHash
from indexer.store.table import EmbeddingStore
from tests.archives import png
from tests.commands import call
from tests.fakes import AnyPlane
from tests.pictures import dicom

PATIENTS = ("007", "7", "Müller 3", "007")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """The commands run with a quick encoder."""
    monkeypatch.setattr("indexer.encoders.load", lambda *_, **__: AnyPlane())
    monkeypatch.setattr("indexer.encoders.load_spec", lambda *_, **__: AnyPlane())


def index(*arguments: object):
    return call("indexer", "index", *arguments, "--precision", "fp32", "--workers", 1, "--json")


def exam(number: int, patient: str, **elements: object) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 4000, (32, 32)).astype(np.uint16)
    return dicom(
        pixels, PatientID=patient, StudyInstanceUID=f"1.2.{number}", SpecificCharacterSet="ISO_IR 192", **elements
    )


def column(db: Path, name: str) -> list[object]:
    rows = EmbeddingStore.open(str(db)).vectors(columns=["key", name]).columns.to_pydict()
    return rows[name]


def every_byte(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def packed(tmp_path):
    """Four exams of three patients, packed and indexed; the last one's ids have an issuer."""
    source = tmp_path / "tree"
    source.mkdir()
    for number, patient in enumerate(PATIENTS):
        issuer = {"IssuerOfPatientID": "elsewhere"} if number == 3 else {}
        (source / f"IM{number}").write_bytes(exam(number, patient, **issuer))
    made = call("indexer", "pack", source, tmp_path / "shards", "--secret", tmp_path / "secret", "--new-secret")
    assert made.code == 0, made.err
    assert index(tmp_path / "shards", tmp_path / "db").code == 0
    return tmp_path


def labels(at: Path, text: str, *more: object):
    (at / "labels.csv").write_text(text, encoding="utf-8")
    return call("indexer", "labels", at / "db", at / "labels.csv", *more)


HASH = ("--on", "Patient ID=patient", "--hash", "patient")


@pytest.mark.case("U7")
def test_plain_ids_join_hashed_ones_and_are_stored_nowhere(packed):
    text = "Patient ID,stage\n007,1\n7,2\n Müller  3 ,3\n"
    done = labels(packed, text, *HASH, "--secret", packed / "secret", "--json")
    assert (done.code, done.json["rows_labelled"]) == (0, 3), done.err
    hashed = KeyedHash(bytes.fromhex((packed / "secret").read_text().strip()))
    expected = {hashed("patient", f"\\{patient}"): stage for patient, stage in (("007", 1), ("7", 2), ("Müller 3", 3))}
    expected[hashed("patient", "elsewhere\\007")] = None  # another hospital's 007 is another patient
    stages = dict(zip(column(packed / "db", "patient"), column(packed / "db", "stage"), strict=True))
    assert stages == expected
    assert "Müller".encode() not in every_byte(packed / "db")
    again = labels(packed, "Patient ID,late\n007,1\n", *HASH, "--secret", packed / "secret", "--site", "elsewhere")
    assert again.code == 0, again.err


@pytest.mark.case("U7")
def test_ids_of_an_issuer_join_when_it_is_named(packed):
    secret = ("--secret", packed / "secret", "--json")
    (packed / "labels2.csv").write_text("Patient ID,stage\n007,5\n")
    done = call("indexer", "labels", packed / "db", packed / "labels2.csv", *HASH, *secret, "--site", "elsewhere")
    stages = dict(zip(column(packed / "db", "study"), column(packed / "db", "stage"), strict=True))
    assert sum(value == 5 for value in stages.values()) == 1, done.err


@pytest.mark.case("U7")
def test_studies_and_images_join_by_their_uids(packed):
    secret = ("--secret", packed / "secret", "--json")
    by_study = labels(packed, "uid,grade\n1.2.1,4\n1.2.3,5\n", "--on", "uid=study", "--hash", "study", *secret)
    assert by_study.json["rows_labelled"] == 2, by_study.err
    import pydicom

    uid = pydicom.dcmread(packed / "tree" / "IM2").SOPInstanceUID
    by_image = labels(packed, f"uid,seen\n{uid},1\n", "--on", "uid=key", "--hash", "key", *secret)
    assert by_image.json["rows_labelled"] == 1, by_image.err


@pytest.mark.case("U7")
def test_ids_that_pack_hashed_from_a_table_join_too(tmp_path):
    (tmp_path / "in").mkdir()
    for n in range(3):
        (tmp_path / "in" / f"{n}.png").write_bytes(png(n))
    (tmp_path / "facts.csv").write_text("file,patient,ward\n0.png,07,a\n1.png,8,b\n2.png,9,c\n")
    hashed = ("--hash", "patient", "--hash", "ward", "--secret", tmp_path / "secret", "--new-secret")
    call("indexer", "pack", tmp_path / "in", tmp_path / "shards", "--csv", tmp_path / "facts.csv", *hashed)
    index(tmp_path / "shards", tmp_path / "db")
    secret = ("--secret", tmp_path / "secret", "--json")
    done = labels(tmp_path, "patient,stage\n07,1\n9,2\n", "--on", "patient", "--hash", "patient", *secret)
    assert done.json["rows_labelled"] == 2, done.err
    done = labels(tmp_path, "ward,floor\nb,2\n", "--on", "ward", "--hash", "ward", *secret)
    assert done.json["rows_labelled"] == 1, done.err


@pytest.mark.parametrize(
    ("secret", "words"),
    [("typo", "there is no secret"), ("other", "under the secret"), (None, "there is no secret")],
)
@pytest.mark.case("U6")
def test_a_mistyped_or_another_secret_is_one_line_and_makes_nothing(packed, monkeypatch, secret, words):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(packed / "config"))
    (packed / "other").touch(mode=0o600)
    (packed / "other").write_text("ef" * 32)
    before = sorted(p.name for p in packed.iterdir())
    named = ("--secret", packed / secret) if secret else ()
    done = labels(packed, "Patient ID,stage\n007,1\n", *HASH, *named)
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert words in done.err
    assert sorted({*before, "labels.csv"}) == sorted(p.name for p in packed.iterdir())
    assert "stage" not in EmbeddingStore.open(str(packed / "db")).columns()


@pytest.mark.case("U7")
def test_a_new_exam_of_a_known_patient_does_not_find_the_patients_own_images(packed):
    (packed / "new.dcm").write_bytes(exam(99, "007"))
    ask = ("indexer", "search", packed / "db", packed / "new.dcm", "-k", 4, "--json")
    without = call(*ask, "--exclude-same", "patient")
    assert without.code == 1
    assert "--secret" in without.err
    done = call(*ask, "--exclude-same", "patient", "--secret", packed / "secret")
    assert done.code == 0, done.err
    (answer,) = done.json["queries"]
    found = {hit["columns"]["patient"] for hit in answer["hits"]}
    hashed = KeyedHash(bytes.fromhex((packed / "secret").read_text().strip()))
    assert found == {hashed("patient", "\\7"), hashed("patient", "\\Müller 3"), hashed("patient", "elsewhere\\007")}
    assert done.err == ""
    typo = call(*ask, "--exclude-same", "patient", "--secret", packed / "typo")
    assert (typo.code, len(typo.err.splitlines())) == (1, 1)
    assert "there is no secret" in typo.err


@pytest.mark.case("U7")
def test_a_patient_unknown_to_the_table_is_said_and_a_file_without_one_refused(packed):
    secret = ("--exclude-same", "patient", "--secret", packed / "secret", "--json")
    (packed / "new.dcm").write_bytes(exam(99, "nobody"))
    done = call("indexer", "search", packed / "db", packed / "new.dcm", *secret)
    assert done.code == 0, done.err
    assert "no row has the patient of" in done.err
    (packed / "new.png").write_bytes(png(1))
    none = call("indexer", "search", packed / "db", packed / "new.png", *secret)
    assert (none.code, len(none.err.splitlines())) == (1, 1)
    assert "no patient in a DICOM header" in none.err
    assert call("indexer", "search", packed / "db", "--key", "k", "--secret", packed / "secret").code == 2


@pytest.mark.case("U5")
def test_a_dicom_tree_indexed_unpacked_is_told_what_it_lacks_and_the_way_out(packed):
    done = index(packed / "tree", packed / "plain")
    (told,) = [w for w in done.json["warnings"] if "DICOM" in w]
    assert told.startswith("4 DICOM files came without metadata")
    assert "indexer pack" in told
    (record,) = (packed / "plain").glob("*.runs/*/manifest.json")
    assert told in json.loads(record.read_text())["report"]["warnings"]
    (packed / "more").mkdir()
    (packed / "more" / "one.png").write_bytes(png(1))
    assert not [w for w in index(packed / "more", packed / "plain").json["warnings"] if "DICOM" in w]
    assert not [w for w in index(packed / "shards", packed / "again").json["warnings"] if "DICOM" in w]


@pytest.mark.case("U15")
def test_failures_of_packed_shards_name_the_file_that_was_packed(packed):
    source = packed / "tree2" / "Jane Doe"
    source.mkdir(parents=True)
    (source / "IM9").write_bytes(exam(9, "9")[:-700])
    assert call("indexer", "pack", source.parent, packed / "cut", "--secret", packed / "secret").code == 0
    assert index(packed / "cut", packed / "db", "--max-failures", 1).json["failed"] == 1
    (failure,) = call("indexer", "failures", packed / "db", "--json").json
    assert failure["path"] == "Jane Doe/IM9"
    assert "Jane Doe/IM9" in call("indexer", "failures", packed / "db").out
    (packed / "cut" / ".pack" / "files.csv").unlink()
    (failure,) = call("indexer", "failures", packed / "db", "--json").json
    assert failure["path"] is None


@pytest.mark.case("U15")
def test_a_mistyped_key_gets_the_nearest_ones(packed):
    (packed / "more").mkdir()
    for name in ("IMG_00010.png", "IMG_0002.png", "other.png", "img_0001.png"):
        (packed / "more" / name).write_bytes(png(len(name)))
    index(packed / "more", packed / "keys")
    for asked, nearest in (
        ("IMG_0001", "'img_0001.png'"),
        ("IMG_0002.jpg", "'IMG_0002.png'"),
        ("0ther", "'other.png'"),
    ):
        done = call("indexer", "search", packed / "keys", "--key", asked)
        assert (done.code, len(done.err.splitlines())) == (1, 1)
        assert f"Did you mean {nearest}" in done.err
    assert "Did you mean" not in call("indexer", "search", packed / "keys", "--key", "zzz").err


@pytest.mark.case("U15")
def test_a_run_that_kept_every_vector_does_not_say_that_nothing_was_embedded(packed):
    (packed / "more").mkdir()
    (packed / "more" / "a.png").write_bytes(png(1))
    index(packed / "more", packed / "keys")
    os.utime(packed / "more" / "a.png", (1, 1))
    done = index(packed / "more", packed / "keys", "--changed", "replace")
    assert (done.json["embedded"], done.json["reused"]) == (1, 1)
    assert done.json["bottleneck"] == "no new image: every vector was kept from before"


@pytest.mark.case("U15")
def test_a_zip_is_called_an_archive(packed):
    with zipfile.ZipFile(packed / "exam.zip", "w") as archive:
        archive.writestr("IM0", exam(0, "7"))
    asked = call("indexer", "search", packed / "db", packed / "exam.zip")
    assert "a zip archive" in asked.err
    (packed / "tree" / "exam.zip").write_bytes((packed / "exam.zip").read_bytes())
    done = call("indexer", "pack", packed / "tree", packed / "all", "--secret", packed / "secret", "--json")
    assert done.json["left_out"] == {"archive, not unpacked: unpack it first": 1}


@pytest.mark.parametrize("source", ["table", "json", "neither"])
@pytest.mark.case("M5")
def test_a_label_given_for_a_part_of_the_files_adds_no_folder_as_a_class(tmp_path, source):
    for folder, name in (("scans", "a"), ("scans", "b"), ("more", "c")):
        (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / folder / f"{name}.png").write_bytes(png(ord(name)))
    more: tuple[object, ...] = ()
    if source == "table":
        (tmp_path / "labels.csv").write_text("file,label\na.png,ill\nb.png,\n")
        more = ("--csv", tmp_path / "labels.csv")
    elif source == "json":
        (tmp_path / "in" / "scans" / "a.json").write_text('{"label": "ill"}')
    done = call("indexer", "pack", tmp_path / "in", tmp_path / "out", *more, "--json")
    assert done.code == 0, done.err
    index(tmp_path / "out", tmp_path / "db")
    found = dict(zip(column(tmp_path / "db", "key"), column(tmp_path / "db", "label"), strict=True))
    if source == "neither":
        assert found == {"scans/a": "scans", "scans/b": "scans", "more/c": "more"}
    else:
        assert found == {"scans/a": "ill", "scans/b": None, "more/c": None}
        assert [n for n in done.json["notes"] if "get none from a folder" in n]
        assert set(column(tmp_path / "db", "folder")) == {"scans", "more"}


CBIS = (  # PatientID and SeriesDescription of a public archive of mammograms: two patients, each image another id
    ("Calc-Training_P_00005_RIGHT_CC", "full mammogram images"),
    ("Calc-Training_P_00005_RIGHT_CC_1", "ROI mask images"),
    ("Calc-Training_P_00005_RIGHT_MLO_1", "cropped images"),
    ("Calc-Training_P_00007_LEFT_CC", "Jane Doe, full view"),
    ("phantom", "routine"),
)


@pytest.mark.case("M6")
def test_ids_that_hold_a_view_are_one_patient_and_masks_are_told_from_images(tmp_path):
    (tmp_path / "in").mkdir()
    for number, (patient, series) in enumerate(CBIS):
        (tmp_path / "in" / str(number)).write_bytes(exam(number, patient, SeriesDescription=series))
    secret = ("--secret", tmp_path / "secret", "--new-secret")
    pattern = ("--patient-pattern", r"P_\d+")
    done = call("indexer", "pack", tmp_path / "in", tmp_path / "out", *secret, *pattern, "--json")
    assert (done.json["packed"], done.json["whole_ids"]) == (5, 1), done.err
    index(tmp_path / "out", tmp_path / "db")
    kinds = dict.fromkeys(column(tmp_path / "db", "patient"))
    hashed = KeyedHash(bytes.fromhex((tmp_path / "secret").read_text().strip()))
    assert kinds.keys() == {hashed("patient", f"\\{p}") for p in ("P_00005", "P_00007", "phantom")}
    assert sorted(map(str, column(tmp_path / "db", "series_kind"))) == ["None", "crop", "full", "full", "mask"]
    assert b"Jane" not in every_byte(tmp_path / "db")

    known = ("--secret", tmp_path / "secret", *pattern)
    plain = "".join(f"{patient},{patient.split('_')[2]}\n" for patient, _ in CBIS[:4])
    (tmp_path / "labels.csv").write_text("PatientID,number\n" + plain)
    ask = ("labels", tmp_path / "db", tmp_path / "labels.csv", "--on", "PatientID=patient", "--hash", "patient")
    joined = call("indexer", *ask, *known, "--repeated", "same", "--json")
    assert (joined.json["rows_labelled"], joined.json["labels_without_row"]) == (4, 0), joined.err
    numbers = dict(zip(column(tmp_path / "db", "patient"), column(tmp_path / "db", "number"), strict=True))
    assert {numbers[hashed("patient", f"\\P_{n}")] for n in ("00005", "00007")} == {"00005", "00007"}
    (tmp_path / "new.dcm").write_bytes(exam(9, "Mass-Test_P_00005_LEFT_MLO"))  # a new image of a known patient
    found = call(
        "indexer", "search", tmp_path / "db", tmp_path / "new.dcm", "--exclude-same", "patient", *known, "--json",
        "--columns", "number",
    )  # fmt: skip
    assert found.err == ""
    assert sorted(str(hit["columns"]["number"]) for hit in found.json["queries"][0]["hits"]) == ["00007", "None"]
    assert sorted(column(tmp_path / "db", "patient_from")) == ["patient id"] * 4 + ["whole patient id"]
    other = call("indexer", "pack", tmp_path / "in", tmp_path / "out", *secret)  # mixing is refused
    assert (other.code, len(other.err.splitlines())) == (1, 1)
    assert call("indexer", "pack", tmp_path / "in", tmp_path / "out", "--patient-pattern", "(").code == 2


@pytest.mark.case("U7")
def test_an_exam_that_is_in_the_table_is_its_patients_whatever_its_header_says_now(packed):
    import tarfile

    with tarfile.open(packed / "shards" / "shard-000000.tar") as archive:
        names = [name for name in archive.getnames() if name.endswith(".dcm")]
        for name in names:
            (packed / name).write_bytes(archive.extractfile(name).read())  # its PatientID is a hash
    ask = ("--exclude-same", "patient", "--secret", packed / "secret", "-k", 4, "--json")
    done = call("indexer", "search", packed / "db", packed / names[0], *ask)
    assert done.err == ""
    (answer,) = done.json["queries"]
    assert len(answer["hits"]) == 3
