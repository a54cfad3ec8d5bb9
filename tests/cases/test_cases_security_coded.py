"""Metadata inside the coded images of DICOM files: none is packed, and the images are what they were."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames

from indexer.doctor import specimens
from indexer.pixels import decode
from indexer.types import PixelSpec
from tests.commands import call
from tests.pictures import scene

pytestmark = pytest.mark.case("X4")
NAME = b"CANARY MARIA"
CLASSIC = ("50", "51", "57", "70", "80", "81")
WAVELET = ("90", "91", "201")


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2, "big") + payload


METADATA = b"".join(
    [
        segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + NAME),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x>" + NAME + b"</x>"),
        segment(0xE2, b"ICC_PROFILE\0\1\1" + NAME * 30),
        segment(0xED, b"Photoshop 3.0\x008BIM" + NAME),
        b"\xff\xff" + segment(0xFE, NAME),  # a fill byte stands before it
    ]
)


def classic(frame: bytes) -> bytes:
    """With metadata behind the first marker and before the last scan, and text after the end."""
    frame = frame[: frame.rindex(b"\xff\xd9") + 2]
    scan = frame.rindex(b"\xff\xda")
    return b"\xff\xd8" + METADATA + frame[2:scan] + segment(0xFE, NAME) + frame[scan:] + NAME


def wavelet(frame: bytes) -> bytes:
    """With a comment in the main header and one in the header of the first tile, whose length then grows."""
    frame = frame[: frame.rindex(b"\xff\xd9") + 2]
    comment = segment(0x64, b"\0\1" + NAME)
    tile = frame.index(b"\xff\x90")
    nbytes = int.from_bytes(frame[tile + 6 : tile + 10], "big")
    longer = (nbytes + len(comment)).to_bytes(4, "big") if nbytes else bytes(4)
    head = frame[tile : tile + 6] + longer + frame[tile + 10 : tile + 12]
    return frame[:tile] + comment + head + comment + frame[tile + 12 :] + NAME


def written(uid: str, frames: list[bytes], form: str) -> bytes:
    """The specimen of a transfer syntax with these frames."""
    dataset = pydicom.dcmread(io.BytesIO(specimens.dicom(next(s for s in specimens.SYNTAXES if s.uid == uid))))
    if len(frames) > 1:
        dataset.NumberOfFrames = len(frames)
    if form == "extended":
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(
            frames
        )
    else:
        dataset.PixelData = encapsulate(
            frames, fragments_per_frame=3 if form == "fragments" else 1, has_bot=form != "without table"
        )
    dataset["PixelData"].is_undefined_length = True
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def pixels(dataset):
    """By pydicom; by this package where pydicom has no decoder for 12 bits."""
    if not str(dataset.file_meta.TransferSyntaxUID).endswith(".51"):
        return dataset.pixel_array
    file = io.BytesIO()
    dataset.save_as(file)
    return np.stack([picture.pixels for picture in decode(file.getvalue(), "dcm", PixelSpec(32, 32))])


def packed(folder, files: dict[str, bytes]):
    """(path → bytes of each packed file, the report, all bytes that were written)."""
    (folder / "in").mkdir()
    for name, data in files.items():
        (folder / "in" / name).write_bytes(data)
    secret = ("--secret", folder / "secret", "--new-secret")
    done = call("indexer", "pack", folder / "in", folder / "out", *secret, "--json")
    assert done.code == 0, done.err
    out = {}
    for shard in sorted((folder / "out").glob("*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                if member.name.endswith(".dcm"):
                    dataset = pydicom.dcmread(io.BytesIO(archive.extractfile(member).read()))
                    out[str(dataset.Rows), str(dataset.file_meta.TransferSyntaxUID), len(out)] = dataset
    every = b"".join(path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file())
    return list(out.values()), done.json, every


@pytest.mark.parametrize("form", ["without table", "basic table", "fragments", "extended"])
def test_metadata_in_coded_images_are_not_packed_and_the_pixels_stay(tmp_path, form):
    files, arrays = {}, {}
    for ending in (*CLASSIC, *WAVELET):
        uid = f"1.2.840.10008.1.2.4.{ending}"
        syntax = next(s for s in specimens.SYNTAXES if s.uid == uid)
        plain = specimens.stream(syntax.stream)
        marked = (wavelet if ending in WAVELET else classic)(plain)
        assert marked.count(NAME) >= 3
        for count in (1, 3):
            if form == "without table" and count > 1 and ending in WAVELET:
                continue  # pydicom cannot tell such frames apart
            dataset = pydicom.dcmread(io.BytesIO(written(uid, [plain] * count, "basic table")))
            arrays[uid, count] = pixels(dataset)
            files[f"{ending}-{count}.dcm"] = written(uid, [marked] * count, form)
    datasets, report, every = packed(tmp_path, files)
    assert (report["packed"], report["left_out"]) == (len(files), {})
    assert b"CANARY" not in every
    for dataset in datasets:
        count = int(dataset.get("NumberOfFrames", 1))
        uid = str(dataset.file_meta.TransferSyntaxUID)
        assert np.array_equal(pixels(dataset), arrays.pop((uid, count))), (uid, count)
        assert ("ExtendedOffsetTable" in dataset) == (form == "extended")
        if form == "extended":
            tables = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
            by_table = list(generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=tables))
            assert len(by_table) == count
    assert not arrays


def test_a_real_photograph_with_exif_keeps_its_colours(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = NAME.decode()
    file = io.BytesIO()
    Image.fromarray(scene(64, 48)).save(
        file, "JPEG", exif=exif, comment=NAME, icc_profile=NAME * 9, dpi=(72, 72), progressive=True
    )
    dataset = pydicom.dcmread(io.BytesIO(specimens.dicom(specimens.SYNTAXES[5])))
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PlanarConfiguration = 64, 48, 3, 0
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    dataset.PixelData = encapsulate([file.getvalue()])
    out = io.BytesIO()
    dataset.save_as(out)
    (found,), _, every = packed(tmp_path, {"a.dcm": out.getvalue()})
    assert NAME not in every
    (frame,) = generate_frames(found.PixelData, number_of_frames=1)
    seen = [np.asarray(Image.open(io.BytesIO(data))) for data in (file.getvalue(), frame)]
    assert np.array_equal(*seen)


@pytest.mark.parametrize(
    ("uid", "pixels"),
    [
        ("1.2.840.10008.1.2.4.50", b"\0\0" + NAME),  # no JPEG at all
        ("1.2.840.10008.1.2.4.90", b"\xff\x4f\xff\x51\0"),
        ("1.2.840.10008.1.2.4.102", b"\0\0\1" + NAME),  # video, whose metadata are not searched for
    ],
)
def test_a_coded_image_whose_metadata_cannot_be_found_is_left_out_and_listed(tmp_path, uid, pixels):
    dataset = pydicom.dcmread(io.BytesIO(specimens.dicom(specimens.SYNTAXES[5])))
    dataset.file_meta.TransferSyntaxUID = uid
    dataset.PixelData = encapsulate([pixels])
    file = io.BytesIO()
    dataset.save_as(file)
    datasets, report, every = packed(
        tmp_path, {"a.dcm": file.getvalue(), "b.dcm": specimens.dicom(specimens.SYNTAXES[1])}
    )
    assert (len(datasets), report["left_out"]) == (1, {"DICOM header that cannot be de-identified": 1})
    assert NAME not in every
