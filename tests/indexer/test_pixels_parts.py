"""Parts of an image and what the header says of each, against the numbers the files were made from."""

from __future__ import annotations

import io

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import Dataset

from indexer.errors import PixelError
from indexer.pixels import decode, decode_part, open_image
from indexer.types import PixelSpec, part_key, part_order
from tests.pictures import deep, dicom, dicom_file, encoded, scene, tiff

SPEC = PixelSpec(16, 16)


def facts(data: bytes, suffix: str, spec: PixelSpec = SPEC) -> list[dict[str, object]]:
    with open_image(data, suffix, spec) as image:
        return [dict(part.facts) for part in image.parts()]


def names(data: bytes, suffix: str) -> list[str]:
    with open_image(data, suffix, SPEC) as image:
        return [part.name for part in image.parts()]


@pytest.mark.parametrize(
    ("kind", "suffix"), [("JPEG", "jpg"), ("PNG", "png"), ("BMP", "bmp"), ("GIF", "gif"), ("TIFF", "tif")]
)
def test_an_image_of_one_part_has_a_part_without_a_name_or_facts(kind, suffix):
    data = encoded(Image.fromarray(scene(20, 20)).quantize(16) if kind == "GIF" else scene(20, 20), kind)
    assert (names(data, suffix), facts(data, suffix)) == ([""], [{}])


def test_the_first_part_has_the_samples_own_key_and_the_others_their_name_behind_it():
    assert [part_key("a", name) for name in ("", "0", "1", "L1/5120,2048")] == ["a", "a", "a#1", "a#L1/5120,2048"]
    assert sorted(["10", "9", "L1/2,10", "L1/2,9", ""], key=part_order) == ["", "9", "10", "L1/2,9", "L1/2,10"]


@pytest.mark.parametrize(("kind", "suffix"), [("GIF", "gif"), ("PNG", "png"), ("WEBP", "webp")])
@pytest.mark.parametrize("local", [False, True])
def test_frames_of_an_animation_know_when_they_begin(kind, suffix, local):
    durations = [100, 250, 40, 1000]  # ms
    frames = [Image.fromarray(scene(20, 24) // (n + 1)) for n in range(4)]
    if kind == "GIF":
        colours = [4, 16, 64, 200] if local else [16] * 4
        frames = [frame.quantize(n) for frame, n in zip(frames, colours, strict=True)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=durations)
    assert facts(data, suffix) == [{"time": t} for t in (0.0, 0.1, 0.35, 0.39)]


def test_a_default_image_outside_an_apng_has_no_time():
    frames = [Image.fromarray(scene(20, 24) // (n + 1)) for n in range(3)]
    data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:], duration=[500, 500], default_image=True)
    assert facts(data, "png") == [{}, {"time": 0.0}, {"time": 0.5}]


@pytest.mark.parametrize(("plane", "axis"), [("sagittal", 0), ("coronal", 1), ("axial", 2)])
def test_slices_of_a_volume_lie_where_the_affine_puts_them(plane, axis):
    shape = (5, 6, 7)
    turned = np.array([[0, 0, -3.0, 11], [2.0, 0, 0, -20], [0, -1.5, 0, 30], [0, 0, 0, 1]])  # axes: front, feet, left
    data = nibabel.Nifti1Image(np.arange(210, dtype=np.int16).reshape(shape), turned).to_bytes()
    corners = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1).reshape(-1, 3)
    truth = np.unique((corners @ turned[:3, :3].T + turned[:3, 3])[:, axis])
    assert [f["z"] for f in facts(data, "nii", PixelSpec(8, 8, plane=plane))] == pytest.approx(truth)


def test_slices_of_an_oblique_volume_lie_along_their_normal():
    angle = np.radians(20)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag([1, 1, 4]), (3, 5, 7)
    data = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), affine).to_bytes()
    start = turn[:, 2] @ np.array([3, 5, 7])
    assert [f["z"] for f in facts(data, "nii")] == pytest.approx([start + 4 * n for n in range(5)], abs=1e-3)


def test_millimetres_of_a_volume_measured_in_metres():
    image = nibabel.Nifti1Image(np.zeros((3, 3, 4), np.int16), np.diag([0.001, 0.001, 0.002, 1]))
    image.header.set_xyzt_units("meter")
    assert [f["z"] for f in facts(image.to_bytes(), "nii")] == pytest.approx([0, 2, 4, 6])


def enhanced(positions: list[list[float]], **content: list[object]) -> bytes:
    """A multi-frame object whose functional groups hold a position and more for each frame."""
    pixels = np.stack([deep(16, 16, seed=n).astype(np.int16) for n in range(len(positions))])
    dataset = pydicom.dcmread(io.BytesIO(dicom(pixels, NumberOfFrames=len(positions))))
    orientation = Dataset()
    orientation.ImageOrientationPatient = [0.8, 0.6, 0, 0, 0, -1]
    shared = Dataset()
    shared.PlaneOrientationSequence = [orientation]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = []
    for index, position in enumerate(positions):
        frame, plane = Dataset(), Dataset()
        plane.ImagePositionPatient = position
        frame.PlanePositionSequence = [plane]
        for keyword, values in content.items():
            sequence, word = keyword.split("__")
            item = getattr(frame, sequence)[0] if sequence in frame else Dataset()
            setattr(item, word, values[index])
            setattr(frame, sequence, [item])
        dataset.PerFrameFunctionalGroupsSequence.append(frame)
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def test_frames_of_an_enhanced_object_have_their_place_time_and_stack():
    positions = [[10, 20, -30], [11.2, 18.4, -30], [12.4, 16.8, 5]]
    data = enhanced(
        positions,
        FrameContentSequence__StackID=["1", "1", "2"],
        FrameContentSequence__InStackPositionNumber=[1, 2, 1],
        FrameContentSequence__TemporalPositionIndex=[1, 1, 2],
        CardiacSynchronizationSequence__NominalCardiacTriggerDelayTime=[0.0, 33.5, 67.0],
    )
    normal = np.cross([0.8, 0.6, 0], [0, 0, -1])
    found = facts(data, "dcm")
    assert [f["z"] for f in found] == pytest.approx([normal @ np.array(p) for p in positions])
    assert [f["time"] for f in found] == pytest.approx([0, 0.0335, 0.067])
    keys = ("frame", "stack", "stack_position", "temporal")
    assert [tuple(f[k] for k in keys) for f in found] == [(0, "1", 1, 1), (1, "1", 2, 1), (2, "2", 1, 2)]


def test_a_temporal_position_is_taken_before_the_trigger_delay():
    data = enhanced([[0, 0, 0], [0, 0, 0]], TemporalPositionSequence__TemporalPositionTimeOffset=[1.5, 3.0],
                    CardiacSynchronizationSequence__NominalCardiacTriggerDelayTime=[1.0, 2.0])  # fmt: skip
    assert [f["time"] for f in facts(data, "dcm")] == [1.5, 3.0]


@pytest.mark.parametrize(
    ("elements", "times"),
    [
        ({"FrameTime": "40"}, [0, 0.04, 0.08]),
        ({"FrameTimeVector": ["0", "40", "35.5"]}, [0, 0.04, 0.0755]),
        ({"FrameTimeVector": ["0", "40"]}, [0, 0.04, None]),
        ({"FrameTime": "0"}, [None, None, None]),
        ({}, [None, None, None]),
    ],
)
def test_frames_of_a_cine_know_when_they_were_taken(elements, times):
    pixels = np.stack([deep(16, 16, seed=n) for n in range(3)])
    plane = {"ImagePositionPatient": [1, 2, 3], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}  # of the first alone
    found = facts(dicom(pixels, NumberOfFrames=3, **plane, **elements), "dcm")
    assert [f.get("time") for f in found] == times
    assert [f["frame"] for f in found] == [0, 1, 2]
    assert all("z" not in f for f in found)


def test_a_single_slice_lies_where_its_position_says():
    dataset = pydicom.dcmread(io.BytesIO(dicom_file("CT_small.dcm")))
    x, y, z = map(float, dataset.ImagePositionPatient)
    (found,) = facts(dicom_file("CT_small.dcm"), "dcm")
    assert (found["z"], found["u"], found["v"]) == pytest.approx((z, x, y))
    assert found["orientation"] == "1\\0\\0\\0\\1\\0"
    assert facts(dicom(deep(16, 16), TriggerTime="120"), "dcm") == [{"time": 0.12}]
    assert facts(dicom(deep(16, 16), FrameReferenceTime="2500", TriggerTime="120"), "dcm") == [{"time": 2.5}]


def test_facts_that_cannot_be_read_are_left_out_and_the_picture_is_not():
    data = dicom(deep(16, 16), ImagePositionPatient=["1.0", "2.0", "3.0"], ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    broken = data.replace(b"1.0\\2.0\\3.0", b"1.0\\2.0\\3;0")
    assert broken != data
    assert facts(broken, "dcm") == [{}]
    with open_image(broken, "dcm", SPEC) as image:
        assert image.pixels(image.parts()[0]).pixels.shape == (16, 16, 3)


def test_parts_of_compressed_frames_are_known_without_decoding_them(monkeypatch):
    def never(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr("indexer.pixels.dicom.reader.stored_frames", never)
    monkeypatch.setattr("indexer.pixels.isolated._holding", never)
    assert len(names(dicom_file("MR_small_jpeg_ls_lossless.dcm"), "dcm")) == 1


def test_pages_know_their_number_in_the_file_and_reduced_copies_are_no_parts():
    file = io.BytesIO()
    import tifffile

    with tifffile.TiffWriter(file) as writer:
        for page in range(3):
            writer.write(deep(40, 40, seed=page))
            writer.write(deep(10, 10, seed=page), subfiletype=1)
    assert (names(file.getvalue(), "tif"), facts(file.getvalue(), "tif")) == (
        ["0", "1", "2"], [{"page": 0}, {"page": 2}, {"page": 4}])  # fmt: skip


def test_a_file_without_any_part_is_refused():
    with pytest.raises(PixelError):
        names(tiff(deep(16, 16), subfiletype=1), "tif")


@pytest.mark.parametrize("marked", ["by Aperio's words", "by NewSubfileType", "in no way"])
@pytest.mark.parametrize("compression", [None, "deflate", "lzw", "jpeg"])
def test_of_a_slides_pages_only_the_slide_itself_is_an_image_whatever_its_compression(compression, marked):
    whole = scene(256, 320)
    pages = [whole, np.ascontiguousarray(whole[::4, ::4]), np.full((90, 70, 3), (0, 0, 255), np.uint8)]
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as out:
        for number, page in enumerate(pages):
            out.write(
                page, tile=None if number else (64, 64), compression=compression, photometric="rgb", metadata=None,
                subfiletype=int(number > 0 and marked == "by NewSubfileType"),
                description=f"Aperio Image Library v11\n{number}" if marked == "by Aperio's words" else None,
            )  # fmt: skip
    data = buffer.getvalue()
    (picture,) = decode(data, "tif", PixelSpec(64, 64, fit="squash"))
    (alone,) = decode(encoded(whole, "PNG"), "png", PixelSpec(64, 64, fit="squash"))
    assert np.abs(picture.pixels.astype(int) - alone.pixels).mean() < 4
    again = decode_part(data, "tif", PixelSpec(64, 64, fit="squash"), picture.part.name)
    assert np.array_equal(again.pixels, picture.pixels)
