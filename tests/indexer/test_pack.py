"""Packing archives: nothing is lost, nothing identifying is written, the same source gives the same bytes."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from indexer.archive.reader import read_shard
from indexer.archive.samples import split_name
from indexer.archive.shards import find_shards
from indexer.errors import InputError
from indexer.pack.headers.secret import KeyedHash
from indexer.pack.plan import safe
from indexer.pack.run import PackOptions, pack
from indexer.pixels import decode
from indexer.pixels.decoder_errors import quiet
from indexer.types import Failure, PixelSpec, Sample
from tests.hidden import without
from tests.pictures import DICOM, deep, dicom, encoded, listed, members, samples, scene


@pytest.fixture
def secret(tmp_path) -> Path:
    path = tmp_path / "keys" / "secret"
    path.parent.mkdir()
    path.touch(mode=0o600)
    path.write_text("ab" * 32)
    return path


def packed(source, destination, secret, **options):
    return pack(PackOptions(str(source), Path(destination), secret, **({"new_secret": True} | options)))


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def read_back(destination: Path) -> list[Sample | Failure]:
    return [item for shard in find_shards([str(destination)]).shards for item in read_shard(shard)]


def digests(destination: Path) -> dict[str, str]:
    files = [*destination.glob("*.tar"), destination / ".pack" / "files.csv"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory) -> tuple[Path, object]:
    """pydicom's own test files, packed."""
    folder = tmp_path_factory.mktemp("fixtures")
    secret = folder / "secret"
    secret.touch(mode=0o600)
    secret.write_text("cd" * 32)
    return folder / "shards", packed(DICOM, folder / "shards", secret, shard_bytes=500_000)


def test_every_file_of_a_real_dicom_tree_is_packed_or_left_out_with_a_reason(fixtures):
    destination, report = fixtures
    files = [path.relative_to(DICOM).as_posix() for path in DICOM.rglob("*") if path.is_file()]
    rows = listed(destination)
    assert sorted(rows) == sorted(files)
    assert report.files == len(files) == report.packed + sum(report.left_out.values())
    assert all(bool(row["key"]) != bool(row["left_out"]) for row in rows.values())
    assert rows["dicomdirtests/DICOMDIR"]["left_out"] == "DICOMDIR"
    assert rows["README.txt"]["left_out"] == "not an image"
    assert report.shards > 2


def test_every_packed_file_is_read_and_becomes_pictures_or_a_named_failure(fixtures):
    destination, report = fixtures
    reasons = {}
    from indexer.errors import PixelError

    found = read_back(destination)
    assert len(found) == report.packed
    for sample in found:
        assert isinstance(sample, Sample)
        try:
            reasons[sample.key] = len(list(decode(sample.image, sample.suffix, PixelSpec(16, 16), frames="first")))
        except PixelError as error:
            reasons[sample.key] = error.reason
    rows = listed(destination)
    assert reasons[rows["CT_small.dcm"]["key"]] == 1
    assert reasons[rows["MR_truncated.dcm"]["key"]] == "truncated"
    assert reasons[rows["rtdose.dcm"]["key"]] == "dose grid, not an image"
    assert len(reasons) == report.packed


def test_with_keep_headers_dicom_files_are_stored_as_they_are(tmp_path, secret):
    names = ("CT_small.dcm", "examples_ybr_color.dcm", "dicomdirtests/77654033/CR1/6154")
    write(tmp_path / "in", {name: (DICOM / name).read_bytes() for name in names})
    packed(tmp_path / "in", tmp_path / "out", secret, keep_headers=True)
    for name, row in listed(tmp_path / "out").items():
        assert members(tmp_path / "out" / row["shard"])[f"{row['key']}.dcm"] == (DICOM / name).read_bytes()


def test_nothing_identifying_is_in_the_metadata(fixtures):
    import pydicom

    quiet()  # some of these files are against the rules, and pydicom warns of it
    destination, _ = fixtures
    vendor = ("manufacturer", "model")  # in these files some institutions bear their scanner's name
    texts = {
        name: json.dumps({field: value for field, value in fields.items() if field not in vendor})
        for name, fields in samples(destination).items()
    }
    assert len(texts) > 100
    everything = "\n".join([*texts, *texts.values()])
    words = (
        "PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyDate", "InstitutionName",
        "ReferringPhysicianName", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "StudyDescription",
    )  # fmt: skip
    seen = 0
    for path in DICOM.rglob("*.dcm"):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            values = {str(header.get(word, "")).strip() for word in words}
        except (pydicom.errors.InvalidDicomError, OSError, ValueError, NotImplementedError):
            continue
        for value in values:
            if len(value) > 4:
                seen += 1
                assert value not in everything, value
    assert seen > 200
    assert "CT_small" not in everything


def test_ids_are_hashes_under_the_users_secret(tmp_path, secret):
    write(tmp_path / "in", {"a.dcm": dicom(deep(16, 16), PatientID="P-17", StudyInstanceUID="1.2.3")})
    packed(tmp_path / "in", tmp_path / "out", secret, site="North")
    (fields,) = samples(tmp_path / "out").values()
    by_hand = hmac.new(bytes.fromhex("ab" * 32), b"patient:North\\P-17", hashlib.sha256).hexdigest()[:32]
    assert fields["patient"] == by_hand
    assert fields["patient_from"] == "patient id"
    study = hmac.new(bytes.fromhex("ab" * 32), b"study:1.2.3", hashlib.sha256).hexdigest()[:32]
    assert fields["study"] == study


def test_the_group_falls_back_from_patient_to_study_to_series(tmp_path, secret):
    write(tmp_path / "in", {
        "a.dcm": dicom(deep(16, 16), StudyInstanceUID="1.2.3", SeriesInstanceUID="1.4"),
        "b.dcm": dicom(deep(16, 16), SeriesInstanceUID="1.4", PatientID=" "),
    })  # fmt: skip
    packed(tmp_path / "in", tmp_path / "out", secret)
    keyed = KeyedHash(bytes.fromhex("ab" * 32))
    found = {fields["patient_from"]: fields["patient"] for fields in samples(tmp_path / "out").values()}
    assert found == {"study": keyed("study", "1.2.3"), "series": keyed("series", "1.4")}


def test_ages_orientations_and_positions(tmp_path, secret):
    oblique = [1, 0, 0, 0, 0.7071, 0.7071]
    cases = {
        "a": ({"PatientAge": "094Y"}, {"age": 90}),
        "b": ({"PatientAge": "018M"}, {"age": 1}),
        "c": ({"PatientBirthDate": "19500615", "StudyDate": "20200614"}, {"age": 69, "year": 2020}),
        "d": ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, {"image_orientation": "axial"}),
        "e": ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, {"image_orientation": "coronal"}),
        "f": ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, {"image_orientation": "sagittal"}),
        "g": ({"ImageOrientationPatient": oblique}, {"image_orientation": "oblique"}),
        "h": ({"ImagePositionPatient": [-10.5, 2, 33], "SliceLocation": 33},
              {"image_position_x": -10.5, "image_position_y": 2.0, "image_position_z": 33.0, "slice_location": 33.0}),
        "i": ({"BurnedInAnnotation": "YES", "Modality": "US"}, {"burned_in": True, "modality": "US"}),
        "j": ({"BodyPartExamined": "Smith, John"}, {}),  # a name may hide in it: stored as a hash
    }  # fmt: skip
    quiet()  # pydicom warns of the name that is no code string
    write(tmp_path / "in", {f"{name}.dcm": dicom(deep(16, 16), **given) for name, (given, _) in cases.items()})
    report = packed(tmp_path / "in", tmp_path / "out", secret)
    found, rows = samples(tmp_path / "out"), listed(tmp_path / "out")
    for name, (_, expected) in cases.items():
        fields = found[rows[f"{name}.dcm"]["key"]]
        assert {key: fields.get(key) for key in expected} == expected
        assert fields.get("body_part", "other-").startswith("other-")
        assert all(isinstance(value, (str, int, float, bool)) for value in fields.values())
    assert report.burned_in == 1


def mixed(folder: Path) -> Path:
    """Truncated files, liars, bystanders and awkward names."""
    png = encoded(scene(20, 20), "PNG")
    return write(folder, {
        "cat/a.png": png, "cat/a.jpg": encoded(scene(20, 20), "JPEG"), "dog/b.PNG": png, "dog/née ü 日本.png": png,
        f"deep/{'x' * 90}/{'y' * 120}.png": png, "1.2.840.1": dicom(deep(8, 8)), "1.2.840.2": dicom(deep(9, 9)),
        "cut.dcm": dicom(deep(32, 32))[:900], "text.dcm": b"no image at all", "liar.png": b"neither", "empty.jpg": b"",
        "README.txt": b"hello", "DICOMDIR": b"\0" * 128 + b"DICM" + b"\0" * 20, ".DS_Store": b"x", "noname": png,
        "100%\\odd.png": png, "line\nbreak.png": png, "a.b.c.d.png": png, "a.b.c.e.png": png, "cat/a.json": b'{"n": 1}',
        "trailing.png.png": png, "trailing.png": png,
    })  # fmt: skip


def test_files_that_call_themselves_images_are_packed_and_others_are_counted(tmp_path, secret):
    report = packed(mixed(tmp_path / "in"), tmp_path / "out", secret, keep_headers=True)
    rows = listed(tmp_path / "out")
    assert {path: row["left_out"] for path, row in rows.items() if row["left_out"]} == {
        "README.txt": "not an image", ".DS_Store": "hidden file", "cat/a.json": "metadata beside an image",
    } | ({"DICOMDIR": rows["DICOMDIR"]["left_out"]} if rows["DICOMDIR"]["left_out"] else {})  # fmt: skip
    assert report.files == 22 == report.packed + sum(report.left_out.values())
    assert all(rows[name]["key"] for name in ("cut.dcm", "text.dcm", "liar.png", "empty.jpg", "noname", "1.2.840.1"))


def test_every_key_survives_the_reader_and_names_one_file(tmp_path, secret):
    report = packed(mixed(tmp_path / "in"), tmp_path / "out", secret)
    found = read_back(tmp_path / "out")
    keys = [item.key for item in found]
    assert len(set(keys)) == len(keys) == report.packed
    rows = {row["key"]: path for path, row in listed(tmp_path / "out").items() if row["key"]}
    assert set(rows) == set(keys)
    by_key = {item.key: item for item in found}
    assert by_key["cat/a.png"].metadata == {"folder": "cat", "label": "cat", "n": 1}
    assert by_key["cat/a.jpg"].suffix == "jpg"
    assert by_key["dog/née ü 日本"].image == encoded(scene(20, 20), "PNG")
    assert by_key["a.b.c.d"].key != by_key["a.b.c.e"].key
    failures = [item for item in found if isinstance(item, Failure)]
    assert [item.reason for item in failures] == ["empty file"]


@given(st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=60))
@example("\ud800")
@example("\udcff")
def test_no_path_leads_out_of_a_folder(path):
    name = safe(path) + ".png"
    assert not name.startswith("/")
    assert ".." not in name.split("/")
    assert "\\" not in name
    assert name.isprintable()
    assert split_name(name)[1] == "png"


@given(st.sets(st.text("ab%./\\\n", min_size=1, max_size=6), min_size=2, max_size=6))
def test_two_file_names_never_become_one(paths):
    names = [path for path in paths if all(part not in ("", ".", "..") for part in path.split("/"))]
    assert len({safe(name) for name in names}) == len(names)


def test_two_runs_give_the_same_bytes_in_one_process_or_several(tmp_path, secret, monkeypatch):
    source = mixed(tmp_path / "in")
    packed(source, tmp_path / "one", secret, shard_files=4)
    for path in source.rglob("*"):
        os.utime(path, (1, 1))
    packed(source, tmp_path / "two", secret, shard_files=4)
    monkeypatch.setattr("indexer.pack.workers.FEW", 1)
    packed(source, tmp_path / "many", secret, shard_files=4, processes=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two") == digests(tmp_path / "many")
    assert len(digests(tmp_path / "one")) > 4


DIES = """
import os, signal, sys
from pathlib import Path
from indexer.pack.run import PackOptions, pack

left, replace = int(sys.argv[1]), Path.replace

def counted(self, target):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)

Path.replace = counted
pack(PackOptions(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), shard_files=10))
"""


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path, secret):
    rng = np.random.default_rng(0)
    source = write(
        tmp_path / "in", {f"{n:04d}.png": encoded(rng.integers(0, 255, (64, 64), np.uint8), "PNG") for n in range(600)}
    )
    packed(source, tmp_path / "whole", secret, shard_files=10)
    for replaced in (1, 6, 11, 14):  # of a shard or of its record, in each run: two for each shard
        command = [sys.executable, "-c", DIES, str(replaced), source, tmp_path / "cut", secret]
        assert subprocess.run(command).returncode == -signal.SIGKILL
    (tmp_path / "cut" / "shard-000059.tar.partial").write_bytes(b"half")
    report = packed(source, tmp_path / "cut", secret, shard_files=10)
    assert report.shards_kept >= 6
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")
    assert not list((tmp_path / "cut").rglob("*.partial"))


def test_a_second_run_writes_nothing(tmp_path, secret):
    source = mixed(tmp_path / "in")
    first = packed(source, tmp_path / "out", secret, shard_files=4)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    second = packed(source, tmp_path / "out", secret, shard_files=4)
    assert (first.shards_kept, second.shards_kept) == (0, second.shards)
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}


def test_shards_of_another_run_are_an_error_or_replaced(tmp_path, secret):
    source = mixed(tmp_path / "in")
    packed(source, tmp_path / "out", secret, shard_files=3)
    (source / "new.png").write_bytes(encoded(scene(), "PNG"))
    with pytest.raises(InputError, match="--replace"):
        packed(source, tmp_path / "out", secret, shard_files=9)
    packed(source, tmp_path / "out", secret, shard_files=9, replace=True)
    packed(source, tmp_path / "fresh", secret, shard_files=9)
    assert digests(tmp_path / "out") == digests(tmp_path / "fresh")


def test_shards_close_at_their_size(tmp_path, secret):
    source = write(tmp_path / "in", {f"{n}.bmp": encoded(scene(50, 50), "BMP") for n in range(10)})
    report = packed(source, tmp_path / "out", secret, shard_bytes=25_000)
    assert report.shards == 4
    assert all(path.stat().st_size < 60_000 for path in (tmp_path / "out").glob("*.tar"))


def test_duplicates_are_reported_and_kept(tmp_path, secret):
    one = dicom(deep(8, 8), SOPInstanceUID="1.2.3")
    write(
        tmp_path / "in",
        {"a.dcm": one, "b.dcm": one, "c.dcm": dicom(deep(9, 9), SOPInstanceUID="1.2.3"), "d.png": b"x", "e.png": b"x"},
    )
    report = packed(tmp_path / "in", tmp_path / "out", secret)
    rows = listed(tmp_path / "out")
    assert (report.packed, report.same_instance, report.same_bytes) == (5, 2, 2)
    key = rows["a.dcm"]["key"]
    assert (rows["b.dcm"]["same_bytes_as"], rows["c.dcm"]["same_instance_as"]) == (key, key)
    assert rows["e.png"]["same_bytes_as"] == "d"


def test_burned_in_files_are_refused_when_asked(tmp_path, secret):
    write(tmp_path / "in", {"a.dcm": dicom(deep(8, 8), BurnedInAnnotation="YES"), "b.dcm": dicom(deep(9, 9))})
    report = packed(tmp_path / "in", tmp_path / "out", secret, refuse_burned_in=True)
    assert (report.packed, report.left_out) == (1, {"burned-in annotation": 1})


def test_a_dry_run_counts_and_writes_nothing(tmp_path):
    source = mixed(tmp_path / "in")
    report = packed(source, tmp_path / "out", tmp_path / "no-secret", dry_run=True, shard_files=4)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "no-secret").exists()
    real = packed(source, tmp_path / "out", tmp_path / "secret", shard_files=4)
    assert (report.files, report.packed, report.shards, report.left_out, report.kinds) == (
        real.files, real.packed, real.shards, real.left_out, real.kinds,
    )  # fmt: skip


def test_the_secret_is_made_once_and_readable_by_its_owner_alone(tmp_path):
    write(tmp_path / "in", {"a.dcm": dicom(deep(8, 8))})
    secret = tmp_path / "new" / "secret"
    assert packed(tmp_path / "in", tmp_path / "one", secret).secret_made
    assert secret.stat().st_mode & 0o777 == 0o600
    assert not packed(tmp_path / "in", tmp_path / "two", secret).secret_made
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert (tmp_path / "one" / ".pack" / "files.csv").stat().st_mode & 0o777 == 0o600
    packed(tmp_path / "in", tmp_path / "other", tmp_path / "other-secret")
    assert set(samples(tmp_path / "one")).isdisjoint(samples(tmp_path / "other"))


def test_a_bad_place_or_a_bad_secret_is_one_clear_error(tmp_path, secret):
    source = write(tmp_path / "in", {"a.dcm": dicom(deep(8, 8))})
    with pytest.raises(InputError, match="lies inside"):
        packed(source, source / "out", secret)
    with pytest.raises(InputError, match="copied with the shards"):
        packed(source, tmp_path / "out", tmp_path / "out" / "secret")
    secret.chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        packed(source, tmp_path / "out", secret)
    secret.chmod(0o600)
    secret.write_text("abcd")
    with pytest.raises(InputError, match="shorter"):
        packed(source, tmp_path / "out", secret)
    with pytest.raises(InputError, match="not a folder"):
        packed(tmp_path / "nowhere", tmp_path / "out", secret)


def test_no_secret_is_made_where_nothing_is_hashed(tmp_path):
    write(tmp_path / "in", {"a.png": encoded(scene(), "PNG")})
    report = packed(tmp_path / "in", tmp_path / "out", tmp_path / "secret")
    assert report.secret == ""
    assert not (tmp_path / "secret").exists()


def test_links_to_folders_are_not_followed_in_circles(tmp_path, secret):
    source = write(tmp_path / "in", {"sub/a.png": encoded(scene(), "PNG")})
    (source / "sub" / "round").symlink_to(source)
    (source / "gone.png").symlink_to(tmp_path / "nothing")
    report = packed(source, tmp_path / "out", secret)
    assert (report.packed, report.left_out) == (1, {"broken link": 1, "link to a folder": 1})


def test_a_table_gives_typed_columns_and_hashes_what_it_is_told_to(tmp_path, secret):
    png = encoded(scene(8, 8), "PNG")
    source = write(tmp_path / "in", {"a.png": png, "sub/b.png": png, "c.png": png})
    table = tmp_path / "labels.csv"
    table.write_text(
        "path,patient,age,score,old,code,empty\n./a.png,Doe,61,0.5,true,007,\nb.png,Roe,7,1e3,false,012,NA\ngone.png,x,1,1,true,1,\n"
    )
    report = packed(source, tmp_path / "out", secret, csv=table, hashed=("patient",))
    found = samples(tmp_path / "out")
    assert found["a"] == {
        "age": 61,
        "score": 0.5,
        "old": True,
        "code": "007",
        "patient": KeyedHash(b"\xab" * 32)("patient", "Doe"),
    }
    assert found["sub/b"]["score"] == 1000.0
    assert found["sub/b"]["folder"] == "sub"
    assert found["c"] == {}
    assert (report.files_without_row, report.rows_without_file) == (1, 1)
    assert "gone.png" in report.notes[0]


def test_parquet_columns_keep_their_types(tmp_path, secret):
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = write(tmp_path / "in", {"a.png": encoded(scene(8, 8), "PNG")})
    table = pa.table({"file": ["a.png"], "n": pa.array([7], pa.int8()), "x": [float("nan")], "s": ["01"], "t": [True]})
    pq.write_table(table, tmp_path / "t.parquet")
    packed(source, tmp_path / "out", secret, csv=tmp_path / "t.parquet")
    assert samples(tmp_path / "out")["a"] == {"n": 7, "s": "01", "t": True}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,x\na.png,1\na.png,2\n", "twice"),
        ("name,x\na.png,1\n", "--on"),
        ("path,x\n,1\n", "no value"),
        ("path,x\na.png,1,9\n", "longer"),
        ("path,x,x\na.png,1,9\n", "of its own"),
        ("path,modality\na.dcm,CT\n", "Rename"),
    ],
)
def test_a_table_that_cannot_be_joined_is_one_clear_error(tmp_path, secret, text, message):
    source = write(tmp_path / "in", {"a.dcm": dicom(deep(8, 8))})
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        packed(source, tmp_path / "out", secret, csv=tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["nosuch.csv", "nosuch.parquet", "in"])
def test_a_table_that_is_not_there_is_told_so(tmp_path, secret, name):
    source = write(tmp_path / "in", {"a.dcm": dicom(deep(8, 8))})
    with pytest.raises(InputError, match=f"{name}: there is no such file"):
        packed(source, tmp_path / "out", secret, csv=tmp_path / name)


def test_files_that_vanish_while_packing_are_named(tmp_path, secret, monkeypatch):
    from indexer.pack.folder import Folder

    source = write(tmp_path / "in", {"a.png": encoded(scene(), "PNG"), "b.png": encoded(scene(), "PNG")})
    read = Folder.read

    def vanish(self, path):
        if path == "a.png":
            raise FileNotFoundError(2, "gone")
        return read(self, path)

    monkeypatch.setattr(Folder, "read", vanish)
    report = packed(source, tmp_path / "out", secret)
    assert (report.packed, report.left_out) == (1, {"unreadable file": 1})


def test_the_command_prints_a_report_and_json(tmp_path, secret):
    source = mixed(tmp_path / "in")
    command = [sys.executable, "-m", "indexer", "pack", source, tmp_path / "out", "--secret", secret]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["files"] == report["packed"] + sum(report["left_out"].values())
    plain = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"packed {report['packed']} of {report['files']} files" in plain.stdout
    wrong = subprocess.run([*command, "--on", "x"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)


def test_a_whole_header_is_read_even_from_a_stream_of_its_own():
    from indexer.pack.headers.dicom_fields import read_header

    assert read_header(io.BytesIO(b"no DICOM at all, but long enough to be looked at twice" * 9)) is None
    assert read_header(io.BytesIO(dicom(deep(8, 8)))).Rows == 8


def shell(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "indexer", "pack", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_secret_is_made_for_its_owner_alone_and_said_so_even_if_the_run_fails_later(tmp_path):
    source = write(tmp_path / "in", {"a.dcm": dicom(deep(8, 8))})
    (tmp_path / "file").write_text("in the way")
    failed = shell(source, tmp_path / "file", "--secret", tmp_path / "keys" / "secret", "--new-secret")
    assert failed.returncode == 1
    assert f"A new secret was made: {tmp_path / 'keys' / 'secret'}" in failed.stderr
    assert "cannot be written to: " in failed.stderr
    assert "Traceback" not in failed.stderr
    assert (tmp_path / "keys" / "secret").stat().st_mode & 0o777 == 0o600
    done = shell(source, tmp_path / "out", "--secret", tmp_path / "keys" / "secret")
    assert (done.returncode, done.stderr) == (0, "")


def test_another_secret_than_the_shards_is_told_from_changed_files(tmp_path, secret):
    source = write(tmp_path / "in", {"a.dcm": dicom(deep(8, 8)), "b.dcm": dicom(deep(9, 9))})
    packed(source, tmp_path / "out", secret)
    secret.write_text("cd" * 32)
    with pytest.raises(InputError, match="another secret"):
        packed(source, tmp_path / "out", secret)
    secret.write_text("ab" * 32)
    assert packed(source, tmp_path / "out", secret).shards_kept == 1


def test_a_folder_without_an_image_is_an_error_of_the_command(tmp_path):
    source = write(tmp_path / "in", {"notes.txt": b"nothing to see"})
    done = shell(source, tmp_path / "out", "--secret", tmp_path / "secret", "--new-secret")
    assert done.returncode == 1
    assert "holds no image to pack" in done.stderr
    assert "1 not an image" in done.stdout


def test_a_disk_that_fills_up_is_one_line_and_whole_shards_are_kept(tmp_path, secret):
    import resource

    source = write(tmp_path / "in", {f"{n}.bmp": encoded(scene(40 + 80 * n, 100), "BMP") for n in range(3)})
    limit = 60_000  # bytes of a file: as a full disk does, the system refuses to write more
    done = subprocess.run(
        [sys.executable, "-m", "indexer", "pack", source, tmp_path / "out", "--shard-files", "1"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        ),
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot be written: File too large. Fix that and run again" in done.stderr
    assert {path.name for path in (tmp_path / "out").glob("*.tar")} == {"shard-000000.tar", "shard-000001.tar"}
    packed(source, tmp_path / "whole", secret, shard_files=1)
    assert packed(source, tmp_path / "out", secret, shard_files=1).shards_kept == 2
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_dicom_without_the_extra_is_one_line_that_names_it(tmp_path):
    source = write(tmp_path / "in", {"a.dcm": dicom(deep(8, 8)), "b.png": encoded(scene(8, 8), "PNG")})
    done = without(
        tmp_path, "pydicom", "pack", source, tmp_path / "out", "--secret", tmp_path / "secret", "--new-secret"
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "embedding-indexer[dicom]" in done.stderr
    (source / "a.dcm").unlink()
    assert without(tmp_path, "pydicom", "pack", source, tmp_path / "out").returncode == 0
