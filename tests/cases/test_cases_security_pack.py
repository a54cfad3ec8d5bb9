"""`indexer pack` lets no name out of a DICOM archive, and carries off no file that a link names."""

from __future__ import annotations

import io
import json
import os
import random
import stat
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from indexer.doctor import specimens
from indexer.errors import InputError, PixelError
from indexer.pack.headers.secret import KeyedHash
from indexer.pack.headers.vocabulary import stored_term
from indexer.pack.run import PackOptions, pack
from indexer.pixels import decode
from indexer.types import PixelSpec
from tests.archives import png
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.pictures import DICOM, deep, dicom, listed, members, samples

pytestmark = pytest.mark.case("X4")
SPEC = PixelSpec(64, 64)
CASES = Path(__file__).parent / "pixels"
NAME = "CANARY^MARIA"
CANARIES = (b"CANARY", b"MARIA", b"19570413", b"ACC-4711", b"PRIVATE-9", b"4.3.2.1.99")
DATA = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@pytest.fixture
def secret(tmp_path) -> Path:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    path.write_text("ab" * 32)
    return path


def packed(folder: Path, destination: Path, secret: Path, **options):
    return pack(PackOptions(str(folder), destination, secret, **options))


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def images(destination: Path) -> dict[str, bytes]:
    """The path in the source → the packed bytes."""
    rows = listed(destination)
    shards = {shard.name: members(shard) for shard in destination.glob("*.tar")}
    return {path: shards[row["shard"]][f"{row['key']}.dcm"] for path, row in rows.items() if row["shard"]}


def end_of_meta(data: bytes) -> int:
    return 132 + 12 + int.from_bytes(data[140:144], "little")


def squares(data: bytes):
    try:
        return [(p.part, p.flags, p.pixels.tobytes()) for p in decode(data, "dcm", SPEC)]
    except PixelError as error:
        return error.reason


def pixel_bytes(data: bytes) -> tuple[str, bytes]:
    """(transfer syntax, the stored bytes of the pixels), by pydicom."""
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    return str(dataset.file_meta.get("TransferSyntaxUID", "")), b"".join(
        dataset[word].value for word in DATA if word in dataset
    )


def every_specimen() -> dict[str, bytes]:
    files = {f"syntax/{syntax.uid}": specimens.dicom(syntax) for syntax in specimens.SYNTAXES}
    files |= {f"cases/{path.name}": path.read_bytes() for path in sorted(CASES.glob("*.dcm"))}
    names = (path for path in sorted(DICOM.rglob("*")) if path.is_file() and path.stat().st_size < 600_000)
    return files | {f"pydicom/{path.relative_to(DICOM).as_posix()}": path.read_bytes() for path in names}


def test_every_dicom_specimen_has_the_squares_vectors_and_pixel_bytes_that_it_had(tmp_path, secret):
    files = every_specimen()
    source = folder_of(tmp_path / "in", files)
    report = packed(source, tmp_path / "out", secret)
    after = images(tmp_path / "out")
    rows = listed(tmp_path / "out")
    left = [path for path, row in rows.items() if "cannot be de-identified" in row["left_out"]]
    assert "pydicom/badVR.dcm" in left
    assert all(isinstance(squares(files[path]), str) for path in left), left  # none of them is a picture
    encoder = FakeEncoder(size=64)
    seen = shortened = 0
    for path, data in after.items():
        before, now = squares(files[path]), squares(data)
        assert now == before, path
        old, new = pixel_bytes(files[path]), pixel_bytes(data)
        assert (old[0] or new[0]) == new[0], path
        assert old[1] == new[1] or len(new[1]) < len(old[1]), path  # shorter: metadata inside coded images are left out
        shortened += old[1] != new[1]
        if isinstance(before, list):
            pixels = [next(iter(decode(d, "dcm", SPEC, frames="first"))).pixels for d in (files[path], data)]
            vectors = [encoder.embed(p[None]) for p in pixels]
            assert vectors[0].tobytes() == vectors[1].tobytes(), path
            seen += 1
    assert seen > 90
    assert shortened < 30
    assert report.headers == "de-identified"
    assert {pixel_bytes(after[f"syntax/{s.uid}"])[0] for s in specimens.SYNTAXES} == {s.uid for s in specimens.SYNTAXES}


def named(**elements) -> bytes:
    """A CT with a name, a birth date, an accession number and private elements everywhere a vendor may put them."""
    dataset = pydicom.dcmread(io.BytesIO(dicom(deep(40, 50), **elements)))
    dataset.PatientName, dataset.PatientBirthDate, dataset.PatientID = NAME, "19570413", "ACC-4711"
    dataset.OtherPatientNames, dataset.InstitutionName, dataset.StudyDescription = NAME, NAME, f"seen by {NAME}"
    dataset.AccessionNumber, dataset.StudyDate, dataset.ImageComments = "ACC-4711", "19570413", NAME
    dataset.Manufacturer, dataset.ManufacturerModelName = NAME, f"SOMATOM {NAME}"
    dataset.BodyPartExamined, dataset.ViewPosition, dataset.Laterality = "CANARY MARIA", "CANARY", "CANARY"
    dataset.StudyInstanceUID = dataset.SeriesInstanceUID = dataset.FrameOfReferenceUID = "4.3.2.1.99"
    dataset.WindowCenterWidthExplanation, dataset.StationName = NAME, NAME
    block = dataset.private_block(0x0009, NAME, create=True)
    block.add_new(1, "LO", "PRIVATE-9")
    dataset.add_new(0x60003000, "OW", b"CANARY" * 2)
    dataset.add_new(0x60000022, "LO", NAME)  # an overlay's description
    item = Dataset()
    item.StackID, item.FrameComments, item.FrameLabel = "CANARY MARIA", NAME, NAME
    item.private_block(0x0021, NAME, create=True).add_new(2, "SH", NAME)
    group = Dataset()
    group.FrameContentSequence = Sequence([item])
    group.ReferencedImageSequence = Sequence([item])
    dataset.PerFrameFunctionalGroupsSequence = Sequence([group])
    dataset.preamble = NAME.encode().ljust(128, b"\0")
    dataset.file_meta.SourceApplicationEntityTitle = "CANARY"
    dataset.file_meta.PrivateInformationCreatorUID = "4.3.2.1.99"
    dataset.file_meta.PrivateInformation = b"CANARY"
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"])
def test_a_name_a_birth_date_and_private_elements_are_in_no_byte_of_a_shard(tmp_path, secret, syntax):
    dataset = pydicom.dcmread(io.BytesIO(named()), force=True)
    dataset.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    dataset.save_as(file, implicit_vr=syntax.endswith(".1.2"), little_endian=True)
    source = folder_of(tmp_path / "in", {"CANARY/maria.dcm": file.getvalue() + b"CANARY behind the end"})
    packed(source, tmp_path / "out", secret)
    (shard,) = (tmp_path / "out").glob("*.tar")
    (image,) = images(tmp_path / "out").values()
    body = image[end_of_meta(image) :]
    plain = image + (zlib.decompress(body, -15) if syntax.endswith("99") else b"")
    for canary in CANARIES:
        assert canary not in shard.read_bytes()
        assert canary not in plain
    header = pydicom.dcmread(io.BytesIO(image))
    (fields,) = samples(tmp_path / "out").values()
    assert header.PatientID == fields["patient"]
    assert header.PatientIdentityRemoved == "YES"
    assert "embedding-indexer" in header.DeidentificationMethod
    assert str(header.StudyInstanceUID) == f"2.25.{int(fields['study'], 16)}"
    assert {"PatientName", "StudyDate"} <= set(header.dir())
    assert header.PatientName == header.StudyDate == ""
    assert not any(element.tag.is_private or (element.tag.group >= 0x6000 and element.tag.group < 0x7000)
                   for element in header)  # fmt: skip
    packed(source, tmp_path / "kept", secret, keep_headers=True)
    (shard,) = (tmp_path / "kept").glob("*.tar")
    assert syntax.endswith("99") or b"CANARY" in shard.read_bytes()


ELEMENTS = (  # numbers and codes in which a careless archive, or a hostile one, puts text
    ("RescaleSlope", "DS"), ("SliceThickness", "LO"), ("WindowCenter", "UN"), ("FrameTime", "SH"),
    ("PixelSpacing", "PN"), ("VOILUTFunction", "CS"), ("BurnedInAnnotation", "CS"), ("Modality", "CS"),
    ("PresentationIntentType", "CS"), ("SliceLocation", "LT"), ("PixelPaddingValue", "ST"), ("TriggerTime", "UT"),
    ("LossyImageCompression", "CS"), ("SOPClassUID", "UI"), ("ImagerPixelSpacing", "OB"),
    ("FloatPixelPaddingValue", "LO"),
)  # fmt: skip


@pytest.mark.parametrize(("word", "vr"), ELEMENTS)
def test_text_in_place_of_a_number_or_a_code_does_not_pass(tmp_path, secret, word, vr):
    plain = dicom(deep(16, 16))
    value = b"CANARY MARIA    "
    tag = pydicom.datadict.tag_for_keyword(word)
    long = vr in ("UN", "UT", "OB")
    element = tag.to_bytes(4, "big")[1::-1] + tag.to_bytes(4, "big")[:1:-1] + vr.encode()
    element += b"\0\0" + len(value).to_bytes(4, "little") if long else len(value).to_bytes(2, "little")
    kept = pydicom.dcmread(io.BytesIO(plain))
    if word in kept:
        del kept[word]
    below, above = io.BytesIO(), io.BytesIO()
    meta = plain[: end_of_meta(plain)]
    for file, dataset in ((below, kept[: pydicom.tag.Tag(tag)]), (above, kept[pydicom.tag.Tag(tag) :])):
        pydicom.filewriter.write_dataset(_explicit(file), dataset)
    source = folder_of(tmp_path / "in", {"a.dcm": meta + below.getvalue() + element + value + above.getvalue()})
    assert b"CANARY" in (source / "a.dcm").read_bytes()
    packed(source, tmp_path / "out", secret)
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"CANARY" not in everything


def _explicit(file: io.BytesIO) -> pydicom.filebase.DicomIO:
    fp = pydicom.filebase.DicomIO(file)
    fp.is_implicit_VR, fp.is_little_endian = False, True
    return fp


def test_what_cannot_be_deidentified_is_named_and_left_out(tmp_path, secret):
    good = dicom(deep(16, 16))
    broken = good.replace(b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x10\x00US\x0c\x00CANARYMARI")  # Rows of 12 bytes
    source = folder_of(tmp_path / "in", {
        "good.dcm": good, "rows.dcm": broken, "text.dcm": b"CANARY^MARIA is no DICOM", "cut.dcm": good[:140],
    })  # fmt: skip
    done = call("indexer", "pack", source, tmp_path / "out", "--secret", secret, "--json")
    assert done.code == 0, done.err
    assert done.json["packed"] == 1
    assert done.json["left_out"] == {"DICOM header that cannot be de-identified": 3}
    assert b"CANARY" not in (tmp_path / "out" / "shard-000000.tar").read_bytes()
    assert "Rows is not what it must be" in listed(tmp_path / "out")["rows.dcm"]["note"]


def test_a_deflated_header_is_inflated_within_a_limit(tmp_path, secret, monkeypatch):
    monkeypatch.setattr("indexer.pack.headers.deidentify.MAX_INFLATED", 1 << 20)
    packer = zlib.compressobj(wbits=-15)
    meta = specimens.dicom(next(s for s in specimens.SYNTAXES if s.uid.endswith(".99")))
    start = end_of_meta(meta)
    body = zlib.decompress(meta[start:], -15) + b"\xfc\xff\xfc\xffOB\0\0\0\0\x60\0" + bytes(0x600000)
    source = folder_of(tmp_path / "in", {"a.dcm": meta[:start] + packer.compress(body) + packer.flush()})
    report = packed(source, tmp_path / "out", secret)
    assert report.left_out == {"DICOM header that cannot be de-identified": 1}
    assert "over 1,048,576 bytes unpacked" in listed(tmp_path / "out")["a.dcm"]["note"]


def test_a_folder_packed_with_headers_is_not_continued_without_them(tmp_path, secret):
    source = folder_of(tmp_path / "in", {"a.dcm": named()})
    first = packed(source, tmp_path / "out", secret, keep_headers=True)
    assert packed(source, tmp_path / "out", secret, keep_headers=True).shards_kept == first.shards == 1
    with pytest.raises(InputError, match=r"packed with the DICOM files' own headers.*give --keep-headers"):
        packed(source, tmp_path / "out", secret)
    packed(source, tmp_path / "out", secret, replace=True)
    assert packed(source, tmp_path / "out", secret).shards_kept == 1
    with pytest.raises(InputError, match=r"packed without .*leave out --keep-headers"):
        packed(source, tmp_path / "out", secret, keep_headers=True)


def test_a_folder_without_dicom_is_continued_whatever_the_choice(tmp_path, secret):
    source = folder_of(tmp_path / "in", {"a.png": png(1)})
    packed(source, tmp_path / "out", secret)
    assert packed(source, tmp_path / "out", secret, keep_headers=True).shards_kept == 1


def test_the_choice_is_said(tmp_path, secret):
    source = folder_of(tmp_path / "in", {"a.dcm": named()})
    done = call("indexer", "pack", source, tmp_path / "out", "--secret", secret)
    assert "DICOM headers: de-identified" in done.out
    done = call("indexer", "pack", source, tmp_path / "kept", "--secret", secret, "--keep-headers")
    assert "DICOM headers: kept as they are, with names and dates" in done.out
    assert "--keep-headers" in call("indexer", "pack", "-h").out


def test_the_files_that_map_keys_to_paths_are_their_owners_alone(tmp_path, secret):
    source = folder_of(tmp_path / "in", {"a.dcm": named(), "b.png": png(1)})
    (tmp_path / "out" / ".pack").mkdir(parents=True, mode=0o777)
    (tmp_path / "out" / ".pack").chmod(0o777)
    old = os.umask(0)
    try:
        packed(source, tmp_path / "out", secret)
    finally:
        os.umask(old)
    state = tmp_path / "out" / ".pack"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()}
    assert set(modes) >= {"files.csv", "lock", "shard-000000.tar.json"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


KEPT = {
    "manufacturer": ("SIEMENS", "GE MEDICAL SYSTEMS", "Philips Medical Systems, Inc.", "Agfa-Gevaert AG", "TOSHIBA"),
    "model": ("SOMATOM Definition AS+", "LightSpeed VCT", "LOGIQ 700", "Discovery CT750 HD", "Eclipse 1.5T"),
    "body_part": ("CHEST", "WHOLE BODY", "CSPINE"), "view": ("MLO", "AP"), "modality": ("CT", "MG"),
}  # fmt: skip


def test_known_terms_are_stored_and_all_others_are_hashes_that_keep_groups():
    keyed = KeyedHash(b"k" * 32)
    for field, terms in KEPT.items():
        assert [stored_term(field, term, keyed) for term in terms] == list(terms)
    assert stored_term("body_part", "Chest", keyed) == "CHEST"
    rng = random.Random(5)
    first, last = ("Maria", "Jürgen", "LI", "Anna", "O'Neill", "Ng"), ("Doe", "SMITH", "Van der Berg", "Wu", "Canary")
    for _ in range(200):
        text = rng.choice(("{f} {l}", "{l}^{f}", "{l}, {f}", "SIEMENS {l}", "{f}1957", "{l} 1957-04-13", "SOMATOM {l}"))
        text = text.format(f=rng.choice(first), l=rng.choice(last))
        for field in KEPT:
            found = stored_term(field, text, keyed)
            assert found.startswith("other-"), (field, text)
            assert found == stored_term(field, text, keyed) != stored_term(field, text + "x", keyed)


@pytest.mark.case("X5")
def test_links_out_of_the_source_carry_nothing_off(tmp_path, secret):
    private = folder_of(tmp_path / "private", {"x.png": png(7), "x.json": json.dumps({"pin": 4711}).encode()})
    source = folder_of(tmp_path / "in", {"a.png": png(1), "b.png": png(2), "real/c.png": png(3)})
    (source / "stolen.png").symlink_to(private / "x.png")
    (source / "b.json").symlink_to(private / "x.json")
    (source / "inside.png").symlink_to(source / "real" / "c.png")
    report = packed(source, tmp_path / "out", secret)
    rows = listed(tmp_path / "out")
    assert rows["stolen.png"]["left_out"] == "link out of the source"
    assert rows["b.png"]["left_out"] == "bad metadata"
    assert report.packed == 3
    data = (tmp_path / "out" / "shard-000000.tar").read_bytes()
    assert png(7) not in data
    assert b"4711" not in data
    assert packed(source, tmp_path / "all", secret, follow_links=True).packed == 5


def test_encapsulated_pixels_of_many_fragments_stay_byte_for_byte(tmp_path, secret):
    dataset = pydicom.dcmread(io.BytesIO(specimens.dicom(next(s for s in specimens.SYNTAXES if s.stream == "jpeg"))))
    stream = specimens.stream("jpeg")
    dataset.NumberOfFrames = 3
    for table in (True, False):
        dataset.PixelData = encapsulate([stream] * 3, has_bot=table, fragments_per_frame=1)
        file = io.BytesIO()
        dataset.save_as(file)
        source = folder_of(tmp_path / f"in{table}", {"a.dcm": file.getvalue()})
        packed(source, tmp_path / f"out{table}", secret)
        (image,) = images(tmp_path / f"out{table}").values()
        assert pixel_bytes(image) == pixel_bytes(file.getvalue())
        assert squares(image) == squares(file.getvalue())


@pytest.mark.parametrize("frames", [1, 3])
def test_what_stands_behind_the_last_pixel_is_left_out(tmp_path, secret, frames):
    dataset = pydicom.dcmread(io.BytesIO(dicom(np.zeros((15, 15), np.uint8))))
    pixels = bytes(range(225)) * frames
    dataset.NumberOfFrames = frames
    dataset.PixelData = pixels + b"CANARY MARIA" * 20 + b"\0" * (len(pixels) % 2)
    file = io.BytesIO()
    dataset.save_as(file)
    packed(folder_of(tmp_path / "in", {"a.dcm": file.getvalue()}), tmp_path / "out", secret)
    (image,) = images(tmp_path / "out").values()
    assert pixel_bytes(image)[1][: len(pixels)] == pixels
    assert len(pixel_bytes(image)[1]) == len(pixels) + len(pixels) % 2
    assert b"CANARY" not in image
    assert squares(image) == squares(file.getvalue())
