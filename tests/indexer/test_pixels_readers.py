"""Cross products of TIFF and DICOM against readers of others: tifffile with imagecodecs, libtiff, dcmtk."""

from __future__ import annotations

import io
import shutil
import subprocess
from itertools import product

import imagecodecs
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from indexer.errors import PixelError
from indexer.pixels import decode
from indexer.pixels.decoder_errors import quiet
from indexer.pixels.kinds import open_kind
from indexer.pixels.parts import Rendering
from indexer.types import PixelSpec
from tests.fuzz.dicom_files import dicom_files
from tests.fuzz.tiff_files import RENDERING, tiff_truth
from tests.fuzz.verdict import agree
from tests.pictures import dicom, tiff

H, W = 33, 40  # no multiple of a strip or a tile
TYPES = ("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8")
PREDICTED = ("lzw", "zlib", "zstd", "lzma", "packbits")


def noise(shape: tuple[int, ...], kind: str, seed: int = 0) -> np.ndarray:
    numbers = np.random.default_rng(seed).normal(0, 1, shape)
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        return (numbers * 300).astype(dtype)
    info = np.iinfo(dtype)
    middle = info.max / 2 + info.min / 2
    return np.clip(middle + numbers * (info.max / 8 - info.min / 8), info.min, info.max).astype(dtype)


def rasters(kind: str, data: bytes, rendering: Rendering = RENDERING):
    quiet()
    reader = open_kind(kind, data, rendering)
    try:
        return list(zip(reader.parts, reader.rasters(range(len(reader.parts))), strict=True))
    finally:
        reader.close()


def as_tifffile_reads_it(data: bytes, pages: int) -> bool:
    found = rasters("tiff", data)
    truths = [tiff_truth(data, part.facts.get("page", 0), part.facts.get("plane", 0)) for part, _ in found]
    return len(found) == pages and all(
        truth is not None and agree(raster.pixels, *truth) for (_, raster), truth in zip(found, truths, strict=True)
    )


@pytest.mark.case("P2")
@pytest.mark.parametrize("compression", [None, *PREDICTED])
def test_every_form_of_a_tiff_is_what_tifffile_and_imagecodecs_read(compression):
    forms = product(TYPES, "<>", (False, True), ("minisblack", "miniswhite", "rgb"), (1, 3), (False, True))
    for number, (kind, order, big, photometric, pages, predictor) in enumerate(forms):
        if number % 5 and (kind, order) != ("u2", ">"):  # a fifth of them, and all of one
            continue
        colour = photometric == "rgb"
        separate = colour and number % 2
        shape = (pages,) * (pages > 1) + ((3, H, W) if separate else (H, W, 3) if colour else (H, W))
        options = {"tile": (16, 16)} if number % 3 else {"rowsperstrip": 5}
        if predictor and compression and np.dtype(kind).itemsize > 1:
            options["predictor"] = True
        data = tiff(noise(shape, kind, number), byteorder=order, bigtiff=big, photometric=photometric, metadata=None,
                    compression=compression, planarconfig="separate" if separate else None, **options)  # fmt: skip
        assert as_tifffile_reads_it(data, pages), (kind, order, big, photometric, pages, predictor)


@pytest.mark.case("P2")
@pytest.mark.parametrize("codec", ["jpeg", "webp"])
@pytest.mark.parametrize("colour", [False, True])
def test_pages_in_codecs_of_pictures_are_what_imagecodecs_reads(codec, colour):
    if codec == "webp" and not colour:
        pytest.skip("WebP has no grey")
    smooth = np.cumsum(noise((H, W, 3) if colour else (H, W), "i1", 3) // 32, axis=0).astype(np.uint8)
    for big, options in product((False, True), ({"rowsperstrip": 16}, {"tile": (16, 16)}, {})):
        data = tiff(smooth, compression=codec, bigtiff=big, photometric="rgb" if colour else "minisblack", **options)
        assert as_tifffile_reads_it(data, 1), (big, options)


@pytest.mark.case("P2")
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "I;16", "I", "F"])
def test_files_of_libtiff_are_what_libtiff_and_tifffile_read(mode):
    codecs = ("raw", "tiff_lzw", "packbits", *(("group3", "group4") if mode == "1" else ("tiff_adobe_deflate",)))
    for codec in codecs:
        if mode in ("I;16", "I", "F"):
            image = Image.fromarray(noise((H, W), {"I;16": "u2", "I": "i4", "F": "f4"}[mode]))
        else:
            image = Image.fromarray(noise((H, W, 3), "u1")).convert(mode)
        file = io.BytesIO()
        image.save(file, "TIFF", compression=codec)
        assert as_tifffile_reads_it(file.getvalue(), 1), codec
        if mode in ("L", "RGB"):
            ((_, raster),) = rasters("tiff", file.getvalue())
            assert np.array_equal(raster.pixels, imagecodecs.tiff_decode(file.getvalue()))


@pytest.mark.case("P5")
@pytest.mark.parametrize(("options", "reason"), [
    ({"compression": "jpegxl"}, "unsupported TIFF"), ({"compression": "jpeg2000"}, "unsupported TIFF"),
    ({"compression": "lerc", "byteorder": "<"}, "unsupported TIFF"), ({"compression": "png"}, "unsupported TIFF"),
    ({"compression": "jpeg", "bigtiff": True, "byteorder": ">"}, "unsupported TIFF"),
    ({"photometric": "cielab"}, "unsupported TIFF"), ({"photometric": "logluv"}, "unsupported TIFF"),
])  # fmt: skip
def test_a_whole_tiff_that_another_reader_reads_is_never_called_corrupt(options, reason):
    colour = options.get("photometric")
    data = tiff(noise((H, W, 3) if colour else (H, W), "u1"), **options)
    assert tifffile.imread(io.BytesIO(data)).shape[:2] == (H, W)
    with pytest.raises(PixelError, match=reason):
        rasters("tiff", data)


@pytest.mark.case("P5")
@pytest.mark.parametrize("compression", [None, *PREDICTED])
def test_a_cut_tiff_is_never_shown_as_a_whole_one(compression):
    data = tiff(noise((H, W), "u2"), compression=compression, rowsperstrip=4, metadata=None)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        ends = [
            start + size for start, size in zip(file.pages[0].dataoffsets, file.pages[0].databytecounts, strict=True)
        ]
    for end in ends[::3]:
        with pytest.raises(PixelError, match=r"truncated|corrupt"):
            rasters("tiff", data[: end - 1])


def by_dcmtk(data: bytes, folder, *window: str) -> np.ndarray:
    """The first frame as dcmtk shows it."""
    if shutil.which("dcm2pnm") is None:
        pytest.skip("dcmtk is not installed: apt-get install dcmtk")
    source, target = folder / "s.dcm", folder / "truth.pnm"
    source.write_bytes(data)
    command = ["dcm2pnm", "--no-overlays", "--frame", "1", *window, "--write-raw-pnm", source, target]
    subprocess.run(command, check=True, capture_output=True)
    return np.asarray(Image.open(target)).astype(float)


def written(dataset, syntax) -> bytes:
    if syntax == ExplicitVRBigEndian and dataset.BitsAllocated == 16:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    if syntax == RLELossless:
        dataset.compress(syntax, encoding_plugin="pydicom")
    dataset.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian,
                     force_encoding=True)  # fmt: skip
    return file.getvalue()


@pytest.mark.case("P4")
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_every_form_of_grey_values_is_shown_through_its_window_as_dcmtk_shows_it(syntax, tmp_path):
    forms = product((8, 12, 16), (False, True), ("MONOCHROME1", "MONOCHROME2"), ((1, 0), (0.5, -100), (2, 8)),
                    ("LINEAR", "SIGMOID"))  # fmt: skip
    for number, (stored, signed, photometric, (slope, intercept), function) in enumerate(forms):
        if (number + len(str(syntax))) % 4 or (stored == 8 and slope < 1):  # dcmtk rounds the real values of 8 bits
            continue
        low = -(2 ** (stored - 1)) if signed else 0
        values = np.random.default_rng(number).integers(low, low + 2**stored, (H, W + 1))
        cells = (values & (2**stored - 1)).astype(np.uint8 if stored == 8 else np.uint16)
        centre, width = (low + 2 ** (stored - 1)) * slope + intercept, 2**stored * slope / 3
        dataset = pydicom.dcmread(io.BytesIO(dicom(
            cells, PixelRepresentation=int(signed), BitsStored=stored, PhotometricInterpretation=photometric,
            RescaleSlope=slope, RescaleIntercept=intercept, WindowCenter=f"{centre:g}", WindowWidth=f"{width:.6g}",
            VOILUTFunction=function,
        )))  # fmt: skip
        data = written(dataset, syntax)
        ((_, raster),) = rasters("dicom", data, Rendering())
        truth = by_dcmtk(
            data, tmp_path, "--use-window", "1", *(["--sigmoid-function"] if function == "SIGMOID" else [])
        )
        assert np.abs(raster.pixels - truth).max() <= 1, (stored, signed, photometric, slope, function)


@pytest.mark.case("P1")
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_a_voi_lut_is_looked_up_as_dcmtk_looks_it_up(bits, signed, tmp_path):
    values = (
        np.random.default_rng(bits).integers(-200 if signed else 0, 900, (H, W + 1)).astype("i2" if signed else "u2")
    )
    dataset = pydicom.dcmread(io.BytesIO(dicom(values)))
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "SS" if signed else "US", [512, -100 if signed else 100, bits])
    item.add_new("LUTData", "US", np.sort(np.random.default_rng(1).integers(0, 2**bits, 512)).tolist())
    dataset.VOILUTSequence = [item]
    data = written(dataset, ExplicitVRLittleEndian)
    ((_, raster),) = rasters("dicom", data, Rendering())
    assert np.abs(raster.pixels - by_dcmtk(data, tmp_path, "--use-voi-lut", "1")).max() <= 1


def test_a_file_that_dcmtk_cannot_show_is_not_shown_without_a_flag(tmp_path):
    """Seeded files with odd elements: where dcmtk reads one, it has as many rows and columns as ours."""
    shown = 0
    for data in dicom_files(60, 2):
        try:
            found = rasters("dicom", data, Rendering())
        except PixelError:
            continue
        try:
            truth = by_dcmtk(data, tmp_path)
        except subprocess.CalledProcessError:
            continue
        shown += 1
        assert truth.shape[:2] == found[0][1].pixels.shape[:2]
    assert shown > 20


@pytest.mark.case("P5")
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_small_png_in_which_any_byte_changed_or_is_missing_is_what_pillow_makes_of_it(mode):
    """Whole files without metadata are read past Pillow's own checks of a file."""
    side = 12
    samples = np.random.default_rng(0).normal(128, 40, (side, side, len(mode))).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(samples.squeeze()).save(file, "PNG", dpi=(72, 72))  # with a pHYs chunk
    whole = file.getvalue()
    flipped = (whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(8, len(whole)))
    for data in (whole, *flipped, *(whole[:at] for at in range(8, len(whole), 5))):
        try:
            image = Image.open(io.BytesIO(data))
            image.load()
        except (OSError, SyntaxError, ValueError):
            with pytest.raises(PixelError):
                list(decode(data, "png", PixelSpec(side, side)))
            continue
        if image.mode in ("L", "RGB") and image.size == (side, side):
            (picture,) = decode(data, "png", PixelSpec(side, side))
            assert np.array_equal(picture.pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_grey_of_a_png_is_black_at_either_depth(depth):
    values = np.arange(256).reshape(16, 16) * (1 if depth == 8 else 257)
    image = Image.fromarray(values.astype(np.uint8 if depth == 8 else np.uint16))
    file = io.BytesIO()
    image.save(file, "PNG", transparency=int(values.max()))
    (picture,) = decode(file.getvalue(), "png", PixelSpec(16, 16))
    truth = np.arange(256).reshape(16, 16)
    truth[-1, -1] = 0
    assert np.abs(picture.pixels - truth[..., None]).max() <= 2  # the percentiles


@pytest.mark.case("P5")
@pytest.mark.parametrize("form", ["JPEG2000", "ICO", "QOI", "PDF", "EPS"])
def test_a_format_that_is_known_and_not_read_is_called_unsupported(form):
    file = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(file, form)
    with pytest.raises(PixelError, match=r"unsupported image format: .*convert it"):
        next(decode(file.getvalue(), "png", PixelSpec(16, 16)))
