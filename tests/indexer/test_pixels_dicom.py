"""DICOM from stored values to 8 bits. Truths: values read by two independent readers, numpy, dcmtk where installed."""

from __future__ import annotations

import io
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import JPEGBaseline8Bit

from indexer.errors import PixelError
from indexer.pixels import decode
from indexer.pixels.decoder_errors import quiet
from indexer.pixels.dicom.grey import grey_scale
from indexer.pixels.dicom.reader import read_dataset
from indexer.pixels.dicom.stored import stored_frames
from indexer.pixels.kinds import open_kind
from indexer.pixels.parts import Rendering
from indexer.types import PixelSpec
from tests.pictures import DICOM, deep, dicom, dicom_file, encoded, scene


def stored(name: str) -> np.ndarray:
    """All frames' stored values, colour as RGB."""
    quiet()
    dataset = read_dataset(dicom_file(name))
    count = int(dataset.get("NumberOfFrames", 1))
    frames = [values for _, values in stored_frames(dicom_file(name), dataset, range(count))]
    return frames[0] if count == 1 else np.stack(frames)


def rasters(data: bytes, positions=None, **rendering):
    reader = open_kind("dicom", data, Rendering(**rendering))
    try:
        yield from reader.rasters(range(len(reader.parts)) if positions is None else positions)
    finally:
        reader.close()


def shown(data: bytes, position: int = 0, **rendering) -> np.ndarray:
    """The picture at its own size."""
    quiet()
    return next(rasters(data, [position], **rendering)).pixels


def square(data: bytes, size: int, **spec):
    return next(decode(data, "dcm", PixelSpec(size, size, fit="squash", **spec)))


STORED = {  # name: shape, type, smallest, largest, mean, tolerance of the mean
    "CT_small.dcm": ((128, 128), "int16", 128, 2191, 904.9261, 1e-4),
    "MR_small.dcm": ((64, 64), "int16", 127, 2145, 518.8813, 1e-4),
    "693_J2KI.dcm": ((512, 512), "int16", -2971, 2836, -8.3228, 1e-4),
    "J2K_pixelrep_mismatch.dcm": ((512, 512), "int16", -2000, 1896, -658.4368, 1e-4),
    "JPGExtended.dcm": ((1024, 256), "uint16", 0, 264, 14.375, 0.01),
    "examples_jpeg2k.dcm": ((480, 640, 3), "uint8", 0, 255, 34.5288, 1e-2),
    "examples_rgb_color.dcm": ((240, 320, 3), "uint8", 0, 255, 34.2666, 1e-4),
    "examples_ybr_color.dcm": ((30, 240, 320, 3), "uint8", 0, 255, 10.4908, 1e-2),
    "SC_rgb_rle.dcm": ((100, 100, 3), "uint8", 0, 255, 127.7000, 1e-4),
    "SC_rgb_jpeg_gdcm.dcm": ((100, 100, 3), "uint8", 0, 255, 127.7000, 1e-4),
    "image_dfl.dcm": ((512, 512), "uint8", 0, 255, 127.1160, 1e-4),
}


@pytest.mark.parametrize("name", STORED)
def test_stored_values_are_those_that_two_readers_found(name):
    shape, dtype, smallest, largest, mean, tolerance = STORED[name]
    values = stored(name)
    assert (values.shape, str(values.dtype)) == (shape, dtype)
    if dtype != "uint8":
        assert (values.min(), values.max()) == (smallest, largest)
    assert values.mean() == pytest.approx(mean, abs=tolerance)


@pytest.mark.parametrize("name", ["RLE", "bigendian", "implicit", "jp2klossless", "jpeg_ls_lossless", "expb", "padded"])
def test_lossless_copies_are_equal_bit_for_bit_and_give_the_same_picture(name):
    assert np.array_equal(stored(f"MR_small_{name}.dcm"), stored("MR_small.dcm"))
    copy = square(dicom_file(f"MR_small_{name}.dcm"), 64)
    assert np.array_equal(copy.pixels, square(dicom_file("MR_small.dcm"), 64).pixels)


def test_twelve_bit_jpeg_with_an_odd_header_is_read_as_dcmtk_reads_it():
    values = stored("JPEG-lossy.dcm")
    assert (values.min(), values.max()) == (0, 264)
    assert values.mean() == pytest.approx(14.36999, abs=1e-5)


def test_hounsfield_units_of_the_ct():
    dataset = pydicom.dcmread(DICOM / "CT_small.dcm")
    real = grey_scale(dataset, 0, np.int16).real(dataset.pixel_array.astype(float))
    assert (real.min(), real.max()) == (-896, 1167)
    assert real.mean() == pytest.approx(-119.0739, abs=1e-4)


def test_a_palette_is_looked_up_and_its_indices_are_not_shown():
    assert shown(dicom_file("examples_palette.dcm")).mean() == pytest.approx(20.4930, abs=0.3)


def test_every_frame_of_a_cine_is_a_picture_in_order():
    data = dicom_file("examples_ybr_color.dcm")
    every = list(decode(data, "dcm", PixelSpec(64, 64)))
    assert [p.part.name for p in every] == [str(number) for number in range(30)]
    (middle,) = decode(data, "dcm", PixelSpec(64, 64), frames="middle")
    assert middle.part.name == "15"
    assert np.array_equal(middle.pixels, every[15].pixels)
    assert not np.array_equal(every[0].pixels, every[15].pixels)


LINEAR_CASES = [(40, 400), (-600, 1500), (0, 1), (500, 2), (1024.5, 333.3)]


@pytest.mark.parametrize(("centre", "width"), LINEAR_CASES)
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_window_of_the_file_follows_the_standards_formula(centre, width, function):
    values = np.arange(-1500, 1500, dtype=np.int16)[: 54 * 54].reshape(54, 54)
    data = dicom(
        values, WindowCenter=centre, WindowWidth=width, VOILUTFunction=function, RescaleSlope=1, RescaleIntercept=10
    )
    x = values.astype(float) + 10
    if function == "SIGMOID":
        truth = 1 / (1 + np.exp(np.minimum(-4 * (x - centre) / width, 600)))
    elif function == "LINEAR_EXACT":
        truth = np.select([x <= centre - width / 2, x > centre + width / 2], [0, 1], (x - centre) / width + 0.5)
    else:  # PS3.3 C.11.2.1.2.1, as it is written there
        inside = ((x - (centre - 0.5)) / (width - 1) + 0.5) if width > 1 else np.zeros_like(x)
        truth = np.select([x <= centre - 0.5 - (width - 1) / 2, x > centre - 0.5 + (width - 1) / 2], [0, 1], inside)
    assert np.abs(shown(data) - truth * 255).max() <= 0.5 + 1e-9


def by_dcmtk(name: str, tmp_path, *window: str) -> np.ndarray:
    """The first frame as dcmtk shows it."""
    if shutil.which("dcmj2pnm") is None:
        pytest.skip("dcmtk is not installed: apt-get install dcmtk")
    target = tmp_path / "truth.pnm"
    command = ["dcmj2pnm", "--no-overlays", "+F", "1", *window, "+op", DICOM / name, target]
    subprocess.run(command, check=True, capture_output=True)
    return np.asarray(Image.open(target)).astype(int)


@pytest.mark.parametrize(
    "name",
    ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "examples_overlay.dcm",
     "dicomdirtests/77654033/CR1/6154", "dicomdirtests/77654033/CR3/6278",
     "dicomdirtests/98892001/CT5N/2062", "dicomdirtests/98892003/MR1/15820", "dicomdirtests/98892003/MR700/4558"],
)  # fmt: skip
def test_the_picture_through_the_files_window_is_dcmtks(name, tmp_path):
    truth = by_dcmtk(name, tmp_path, "+Wi", "1")
    assert np.abs(shown((DICOM / name).read_bytes()) - truth).max() <= 1


@pytest.mark.parametrize(("name", "centre", "width"), [
    ("CT_small.dcm", "40", "400"), ("CT_small.dcm", "-600", "1500"), ("JPGExtended.dcm", "60", "120"),
    ("JPEG-lossy.dcm", "60", "120"), ("MR_small_padded.dcm", "800", "1000"),
])  # fmt: skip
def test_the_picture_through_the_users_window_is_dcmtks(name, centre, width, tmp_path):
    truth = by_dcmtk(name, tmp_path, "+Ww", centre, width)
    assert np.abs(shown(dicom_file(name), window=f"{centre},{width}") - truth).max() <= 1


@pytest.mark.parametrize(
    "name",
    ["ExplVR_BigEnd", "SC_jpeg_no_color_transform", "SC_jpeg_no_color_transform_2", "SC_rgb_dcmtk_+eb+cr",
     "SC_rgb_dcmtk_+eb+cy+n1", "SC_rgb_dcmtk_+eb+cy+n2", "SC_rgb_dcmtk_+eb+cy+np", "SC_rgb_dcmtk_+eb+cy+s2",
     "SC_rgb_dcmtk_+eb+cy+s4", "SC_rgb_jpeg_app14_dcmd", "SC_rgb_jpeg_dcmd", "SC_rgb_jpeg_dcmtk", "SC_rgb_jpeg_gdcm",
     "SC_rgb_jpeg_lossy_gdcm", "SC_rgb_rle", "SC_rgb_rle_16bit", "SC_rgb_rle_2frame", "SC_rgb_rle_32bit",
     "SC_rgb_small_odd", "SC_rgb_small_odd_big_endian", "SC_rgb_small_odd_jpeg", "SC_ybr_full_422_uncompressed",
     "examples_palette", "examples_rgb_color", "examples_ybr_color", "image_dfl"],
)  # fmt: skip
def test_colours_are_dcmtks(name, tmp_path):
    truth = by_dcmtk(f"{name}.dcm", tmp_path)
    assert np.abs(shown(dicom_file(f"{name}.dcm")) - truth).max() <= 1


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "YBR_FULL", "MONOCHROME2", "MONOCHROME1"])
def test_frames_of_eight_bit_jpeg_are_what_pillow_reads_in_them(photometric):
    pictures = [scene(64, 80), scene(64, 80)[::-1].copy(), scene(64, 80)[:, ::-1].copy()]
    grey = photometric.startswith("MONO")
    streams = [encoded(p[..., 0] if grey else p, "JPEG", quality=90) for p in pictures]
    values = np.stack(pictures)[..., 0] if grey else np.stack(pictures)
    dataset = pydicom.dcmread(io.BytesIO(dicom(values, NumberOfFrames=3)))
    dataset.PixelData, dataset.PhotometricInterpretation = encapsulate(streams), photometric
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    file = io.BytesIO()
    dataset.save_as(file)
    frames = [raster.pixels for raster in rasters(file.getvalue())]
    for found, stream in zip(frames, streams, strict=True):
        truth = np.asarray(Image.open(io.BytesIO(stream)))
        assert np.array_equal(found, 255 - truth if photometric == "MONOCHROME1" else truth)


def test_a_jpeg_that_is_not_what_its_header_says_is_read_as_pydicom_reads_it():
    picture = scene(32, 32)
    dataset = pydicom.dcmread(io.BytesIO(dicom(picture)))
    dataset.PixelData = encapsulate([encoded(picture, "JPEG", quality=95, subsampling=0)])  # YCbCr inside
    dataset.PhotometricInterpretation = "RGB"
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    file = io.BytesIO()
    dataset.save_as(file)
    assert np.array_equal(shown(file.getvalue()), pydicom.dcmread(io.BytesIO(file.getvalue())).pixel_array)


def cine() -> bytes:
    """Ten frames of 12 bits, each another picture."""
    frames = np.stack([deep(40, 50, top=4000, seed=number) % 4096 for number in range(10)])
    return dicom(frames, NumberOfFrames=10, BitsStored=12, WindowCenter=2048, WindowWidth=4096)


@pytest.mark.parametrize("syntax", ["5", "4.80", "4.90", "4.57", "4.70"])
def test_frames_of_every_lossless_syntax_are_equal_bit_for_bit(syntax, tmp_path):
    plain = pydicom.dcmread(io.BytesIO(cine()))
    uid = f"1.2.840.10008.1.2.{syntax}"
    if syntax in ("4.57", "4.70"):  # pydicom writes none of these
        if shutil.which("dcmcjpeg") is None:
            pytest.skip("dcmtk is not installed: apt-get install dcmtk")
        (tmp_path / "in.dcm").write_bytes(cine())
        way = "+el" if syntax == "4.57" else "+e1"
        subprocess.run(["dcmcjpeg", way, tmp_path / "in.dcm", tmp_path / "out.dcm"], check=True, capture_output=True)
        data = (tmp_path / "out.dcm").read_bytes()
    else:
        compressed, file = pydicom.dcmread(io.BytesIO(cine())), io.BytesIO()
        compressed.compress(uid)
        compressed.save_as(file)
        data = file.getvalue()
    dataset = read_dataset(data)
    assert dataset.file_meta.TransferSyntaxUID == uid
    found = [values for _, values in stored_frames(data, dataset, range(10))]
    assert np.array_equal(np.stack(found), plain.pixel_array)
    middle = shown(data, 5)
    assert np.array_equal(middle, shown(cine(), 5))


def test_monochrome1_is_the_negative_and_padding_is_black_in_both():
    values = deep(64, 64).astype(np.int16)
    values[:10] = -2000
    facts = {"WindowCenter": 2000, "WindowWidth": 4000, "PixelPaddingValue": -2000}
    bright, dark = (
        shown(dicom(values, PhotometricInterpretation=kind, **facts)).astype(int)
        for kind in ("MONOCHROME2", "MONOCHROME1")
    )
    assert (bright[:10] == 0).all()
    assert (dark[:10] == 0).all()
    assert np.abs(bright[10:] + dark[10:] - 255).max() <= 1


def test_padding_does_not_move_the_percentiles():
    inside = deep(64, 64).astype(np.int16) + 100
    padded = np.vstack([inside, np.full((64, 64), -3024, np.int16), np.full((64, 64), -3000, np.int16)])
    data = dicom(padded, PixelPaddingValue=-3024, PixelPaddingRangeLimit=-3000)
    assert np.array_equal(shown(data)[:64], shown(dicom(inside)))


def test_bits_above_bits_stored_are_ignored():
    values = deep(64, 64, top=4095)
    junk = values | (np.random.default_rng(0).integers(0, 16, values.shape).astype(np.uint16) << 12)
    clean, dirty = (shown(dicom(v, BitsStored=12, WindowCenter=2048, WindowWidth=4096)) for v in (values, junk))
    assert np.array_equal(clean, dirty)


def test_a_file_without_a_window_is_scaled_by_percentiles_and_says_so():
    values = deep(64, 64)
    found = square(dicom(values), 64)
    low, high = np.percentile(values, (0.5, 99.5))
    assert np.abs(found.pixels[..., 0] - np.clip((values - low) / (high - low), 0, 1) * 255).max() <= 0.51
    assert "no window in file" in found.flags


@pytest.mark.parametrize("width", [0, 0.5, -4])
def test_a_window_that_cannot_be_used_is_as_none(width):
    found = square(dicom(deep(64, 64), WindowCenter=100, WindowWidth=width), 64)
    assert "no window in file" in found.flags
    assert np.array_equal(found.pixels, square(dicom(deep(64, 64)), 64).pixels)


def test_the_first_of_several_windows_is_used_and_the_users_goes_before():
    values = deep(64, 64)
    several = dicom(values, WindowCenter=[1000, 3000], WindowWidth=[500, 100])
    single = dicom(values, WindowCenter=1000, WindowWidth=500)
    assert np.array_equal(shown(several), shown(single))
    assert np.array_equal(shown(several, window="3000,100"), shown(dicom(values, WindowCenter=3000, WindowWidth=100)))


def table(descriptor: list[int], data: list[int]) -> Sequence:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = descriptor, np.asarray(data, "<u2").tobytes()
    return Sequence([item])


def test_a_voi_table_is_looked_up_by_the_modalitys_value():
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    entries = [(n * n) // 64 for n in range(200)]
    data = dicom(values, RescaleSlope=2, RescaleIntercept=-10, VOILUTSequence=table([200, 20, 10], entries))
    index = np.clip(values.astype(int) * 2 - 10 - 20, 0, 199)
    truth = np.minimum(np.asarray(entries)[index] / 1023, 1) * 255
    assert np.abs(shown(data) - truth).max() <= 0.5


def test_a_modality_table_goes_before_the_window():
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    entries = [4000 - 10 * n for n in range(256)]
    data = dicom(values, ModalityLUTSequence=table([256, 0, 16], entries), WindowCenter=3000, WindowWidth=1001)
    truth = np.clip((np.asarray(entries)[values] - (3000 - 0.5 - 500)) / 1000, 0, 1) * 255
    assert np.abs(shown(data) - truth).max() <= 0.5


def test_a_table_shorter_than_it_says_is_a_failure():
    data = dicom(deep(16, 16), VOILUTSequence=table([500, 0, 12], [1, 2, 3]))
    with pytest.raises(PixelError, match="LUT of 3 entries, 500 announced"):
        shown(data)


def test_each_frame_of_an_enhanced_object_has_its_own_rescale_and_window():
    values = np.stack([deep(32, 32), deep(32, 32)])

    def groups(slope: float, centre: float) -> Dataset:
        item, rescale, window = Dataset(), Dataset(), Dataset()
        rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = slope, 0, "US"
        window.WindowCenter, window.WindowWidth = centre, 1001
        item.PixelValueTransformationSequence, item.FrameVOILUTSequence = Sequence([rescale]), Sequence([window])
        return item

    data = dicom(
        values, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=Sequence([groups(1, 1000), groups(3, 6000)])
    )
    for index, slope, centre in ((0, 1, 1000), (1, 3, 6000)):
        truth = np.clip((values[0] * float(slope) - (centre - 0.5 - 500)) / 1000, 0, 1) * 255
        assert np.abs(shown(data, index) - truth).max() <= 0.5


def test_a_ct_preset_means_hounsfield_units_and_nothing_in_another_modality():
    values = (deep(64, 64).astype(np.int16) - 1500).astype(np.int16)
    ct, mr = (dicom(values, Modality=m, WindowCenter=0, WindowWidth=3000) for m in ("CT", "MR"))
    assert np.array_equal(shown(ct, window="lung"), shown(ct, window="-600,1500"))
    found = square(mr, 64, window="lung")
    assert found.flags == ("CT preset not applied to modality MR",)
    assert np.array_equal(found.pixels[..., 0], shown(mr))


def test_eight_bits_without_a_window_are_shown_as_they_are():
    values = np.arange(30, 130, dtype=np.uint8).reshape(10, 10)
    assert np.array_equal(shown(dicom(values)), values)


def test_overlays_are_not_drawn():
    data = dicom_file("examples_overlay.dcm")
    dataset = pydicom.dcmread(DICOM / "examples_overlay.dcm")
    plain = dataset.pixel_array.astype(float)
    centre, width = float(dataset.WindowCenter[0]), float(dataset.WindowWidth[0])
    truth = np.clip((plain - (centre - 0.5 - (width - 1) / 2)) / (width - 1), 0, 1) * 255
    assert np.abs(shown(data) - truth).max() <= 0.51


def test_burned_in_text_is_flagged():
    assert "burned-in annotation" in square(dicom(deep(32, 32), BurnedInAnnotation="YES"), 32).flags
    assert square(dicom(deep(32, 32), BurnedInAnnotation="NO"), 32).flags == ("no window in file",)


REFUSED = {
    "rtdose.dcm": "dose grid, not an image",
    "liver_1frame.dcm": "segmentation, not an image",
    "badVR.dcm": "dose grid, not an image",
    "rtplan.dcm": "no pixel data",
    "reportsi.dcm": "no pixel data",
    "waveform_ecg.dcm": "no pixel data",
    "MR_truncated.dcm": "truncated",
    "JPEG2000-embedded-sequence-delimiter.dcm": "corrupt image",
    "README.txt": "not an image",
    "dicomdirtests/DICOMDIR": "not an image",
}


@pytest.mark.parametrize("name", REFUSED)
def test_each_refusal_has_its_reason(name):
    with pytest.raises(PixelError) as failure:
        list(decode(dicom_file(name), name.rpartition(".")[2], PixelSpec(32, 32)))
    assert failure.value.reason == REFUSED[name]


def test_refusals_by_header():
    for elements, reason in (
        ({"Modality": "MG", "PresentationIntentType": "FOR PROCESSING"}, "mammogram for processing"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2.1"}, "mammogram for processing"),
        ({"PhotometricInterpretation": "CMYK"}, "unsupported photometric interpretation"),
    ):
        with pytest.raises(PixelError) as failure:
            shown(dicom(deep(16, 16), **elements))
        assert failure.value.reason == reason


def test_an_unknown_transfer_syntax_is_named_by_its_uid():
    data = dicom(deep(16, 16)).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0")
    with pytest.raises(PixelError, match=r"unsupported transfer syntax: 1\.2\.840\.10008\.1\.2\.9"):
        shown(data)


def test_a_file_without_preamble_and_file_meta_is_read():
    data = dicom(deep(32, 32))
    dataset = pydicom.dcmread(io.BytesIO(data))
    bare = io.BytesIO()
    pydicom.dcmwrite(bare, Dataset(dataset), implicit_vr=True, little_endian=True)
    assert bare.getvalue()[128:132] != b"DICM"
    assert np.array_equal(square(bare.getvalue(), 32).pixels, square(data, 32).pixels)
