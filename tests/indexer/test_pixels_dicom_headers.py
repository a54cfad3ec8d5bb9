"""DICOM headers as archives hold them: each way to write a fact shows one picture, against the standard's formula."""

from __future__ import annotations

import io
from itertools import product
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from indexer.errors import PixelError
from indexer.pixels import decode, open_image
from indexer.types import PixelSpec
from tests.pictures import deep, dicom, scene

SIDE = 32
CASES = Path(__file__).parents[1] / "cases" / "pixels"
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)


def seen(data: bytes, **spec):
    (picture,) = decode(data, "dcm", PixelSpec(SIDE, SIDE, **spec))
    return picture


def grey(data: bytes, **spec) -> np.ndarray:
    return seen(data, **spec).pixels[..., 0].astype(float)


def changed(data: bytes, syntax=ExplicitVRLittleEndian, **elements: tuple[str, object]) -> bytes:
    """With these elements (VR, value) written as given, in another uncompressed syntax."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    for word, (vr, value) in elements.items():
        dataset.add_new(word, vr, value)
    if syntax == ExplicitVRBigEndian and dataset.BitsAllocated == 16:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian,
                     force_encoding=True)  # fmt: skip
    return file.getvalue()


def lut(first: int, table: np.ndarray, bits: int, descriptor_vr: str, data_vr: str, syntax) -> Dataset:
    item = Dataset()
    if descriptor_vr == "US":
        first &= 0xFFFF
    item.add_new("LUTDescriptor", descriptor_vr, [len(table), first, bits])
    if data_vr == "SS":
        item.add_new("LUTData", "SS", [int(v) - 65536 if v > 32767 else int(v) for v in table])
    elif data_vr == "packed":  # two 8-bit entries a word, the lower byte first
        low, high = table[::2].astype(int), table[1::2].astype(int)
        item.add_new("LUTData", "US", (low + 256 * high).tolist())
    elif data_vr == "OW":
        order = "<u2" if syntax.is_little_endian else ">u2"
        item.add_new("LUTData", "OW", table.astype(order).tobytes())
    else:
        item.add_new("LUTData", "US", table.astype(int).tolist())
    return item


@pytest.mark.case("P1")
@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(("kind", "intercept", "first"), [
    (np.uint16, -1024, -1024), (np.uint16, -1024, 200), (np.uint16, 0, 40_000), (np.int16, 0, -700),
    (np.int16, 900, 40),
])  # fmt: skip
def test_a_voi_lut_begins_at_a_number_signed_as_what_goes_into_it(syntax, kind, intercept, first):
    values = (first - intercept - 100 + np.arange(SIDE * SIDE)).reshape(SIDE, SIDE).astype(kind)
    plain = dicom(values, RescaleSlope=1, RescaleIntercept=intercept)
    for bits, data_vr in ((16, "US"), (16, "SS"), (16, "OW"), (12, "US"), (8, "packed"), (8, "US")):
        table = np.random.default_rng(bits).integers(0, 2**bits, 512)
        found = values.astype(float) + intercept - first
        truth = table[np.clip(found, 0, 511).astype(int)] / (2**bits - 1) * 255
        for descriptor_vr in ("US", "SS") if first < 0 else ("US",):
            item = lut(first, table, bits, descriptor_vr, data_vr, syntax)
            data = changed(plain, syntax, VOILUTSequence=("SQ", [item]))
            assert np.abs(grey(data) - truth).max() <= 0.5 + 1e-9, (bits, data_vr, descriptor_vr)


@pytest.mark.case("P1")
@pytest.mark.parametrize("data_vr", ["US", "SS", "OW"])
@pytest.mark.parametrize(("kind", "first"), [(np.uint16, 300), (np.int16, -300)])
def test_a_modality_lut_gives_unsigned_values_whatever_its_vr(data_vr, kind, first):
    values = (first - 50 + np.arange(SIDE * SIDE)).reshape(SIDE, SIDE).astype(kind)
    table = np.random.default_rng(1).integers(0, 65536, 600)
    item = lut(first, table, 16, "US", data_vr, ExplicitVRLittleEndian)
    data = changed(dicom(values, WindowCenter=32768, WindowWidth=65536), ModalityLUTSequence=("SQ", [item]))
    real = table[np.clip(values.astype(int) - first, 0, 599)]
    truth = np.clip((real - 32767.5) / 65535 + 0.5, 0, 1) * 255  # PS3.3 C.11.2.1.2.1
    assert np.abs(grey(data) - truth).max() <= 0.5 + 1e-9


@pytest.mark.case("P4")
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_value_may_stand_anywhere_in_its_cell(signed, compressed, syntax):
    for stored, high in ((12, 11), (12, 13), (12, 15), (10, 15), (8, 15), (15, 15)):
        low, top = (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if signed else (0, 2**stored - 1)
        values = np.random.default_rng(stored).integers(low, top + 1, (SIDE, SIDE))
        cells = ((values.astype(np.int64) & (2**stored - 1)) << (high + 1 - stored)).astype(np.uint16)
        centre, width = (low + top) / 2 + 1, top - low + 2
        plain = dicom(cells, PixelRepresentation=int(signed), BitsStored=stored, WindowCenter=centre, WindowWidth=width)
        data = changed(plain, syntax, HighBit=("US", high))
        if compressed:
            dataset, file = pydicom.dcmread(io.BytesIO(data)), io.BytesIO()
            if syntax != ExplicitVRLittleEndian:
                continue
            dataset.HighBit, dataset.BitsStored = 15, 16  # the compressor takes whole cells
            dataset.compress("1.2.840.10008.1.2.5")
            dataset.HighBit, dataset.BitsStored = high, stored
            dataset.save_as(file)
            data = file.getvalue()
        truth = np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255
        assert np.abs(grey(data) - truth).max() <= 0.5 + 1e-9, (stored, high)


@pytest.mark.case("P4")
@pytest.mark.parametrize("signed", [False, True])
def test_values_with_unused_bits_below_are_shown_by_their_own_range_in_every_frame(signed):
    values = np.random.default_rng(6).integers(*((-32, 32) if signed else (0, 64)), (3, SIDE, SIDE))
    cells = ((values & 63) << 4).astype(np.uint16)
    plain = dicom(cells, PixelRepresentation=int(signed), BitsStored=6, NumberOfFrames=3)
    truth = (values + (32 if signed else 0)) / 63 * 255
    pictures = list(decode(changed(plain, HighBit=("US", 9)), "dcm", PixelSpec(SIDE, SIDE)))
    for picture, frame in zip(pictures, truth, strict=True):
        assert np.abs(picture.pixels[..., 0] - frame).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_palette_is_read_in_the_files_byte_order_in_every_frame(syntax):
    rng = np.random.default_rng(7)
    tables = rng.integers(0, 65536, (3, 256))
    indices = rng.integers(0, 256, (2, SIDE, SIDE)).astype(np.uint8)
    order = "<u2" if syntax.is_little_endian else ">u2"
    elements = {"PixelData": ("OB", indices.tobytes())}  # as OW, big-endian files hold pairs of them swapped
    for colour, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = ("US", [256, 0, 16])
        elements[f"{colour}PaletteColorLookupTableData"] = ("OW", table.astype(order).tobytes())
    data = changed(dicom(indices, NumberOfFrames=2, PhotometricInterpretation="PALETTE COLOR"), syntax, **elements)
    pictures = list(decode(data, "dcm", PixelSpec(SIDE, SIDE)))
    for picture, frame in zip(pictures, indices, strict=True):
        assert np.abs(picture.pixels - np.moveaxis(tables[:, frame], 0, -1) / 257).max() <= 0.5 + 1e-6


@pytest.mark.case("P4")
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_signed_as_the_pixels_are(photometric):
    window = {"WindowCenter": 100, "WindowWidth": 600, "PhotometricInterpretation": photometric}
    inside = np.random.default_rng(2).integers(-150, 350, (SIDE, SIDE)).astype(np.int16)
    clean = grey(dicom(inside, **window))
    for value, limit in ((-2000, None), (-2000, -1900), (2000, 2500)):
        padded = inside.copy()
        padded[:10] = value if limit is None else (value + limit) // 2
        expected = clean.copy()
        expected[:10] = 0
        for vr in ("SS", "US"):
            wrapped = {"PixelPaddingValue": (vr, value if vr == "SS" else value & 0xFFFF)}
            if limit is not None:
                wrapped["PixelPaddingRangeLimit"] = (vr, limit if vr == "SS" else limit & 0xFFFF)
            assert np.array_equal(grey(changed(dicom(padded, **window), **wrapped)), expected), (value, vr)
    whole = deep(SIDE, SIDE, top=60_000)
    padded = whole.copy()
    padded[:10] = 63_000
    truth = grey(dicom(whole, WindowCenter=30_000, WindowWidth=60_000))
    truth[:10] = 0
    for vr, value in (("US", 63_000), ("SS", 63_000 - 65536)):
        data = changed(dicom(padded, WindowCenter=30_000, WindowWidth=60_000), PixelPaddingValue=(vr, value))
        assert np.array_equal(grey(data), truth), vr


def real_numbers(values: np.ndarray, **elements: tuple[str, object]) -> bytes:
    """A parametric map: FloatPixelData or DoubleFloatPixelData."""
    dataset = pydicom.dcmread(io.BytesIO(dicom(np.zeros((SIDE, SIDE), np.uint16))))
    word, vr = ("FloatPixelData", "OF") if values.dtype.itemsize == 4 else ("DoubleFloatPixelData", "OD")
    for gone in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        del dataset[gone]
    dataset.BitsAllocated = 8 * values.dtype.itemsize
    dataset.add_new(word, vr, values.tobytes())
    for name, (kind, value) in elements.items():
        dataset.add_new(name, kind, value)
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


@pytest.mark.case("P4")
@pytest.mark.parametrize(("kind", "words", "vr"), [
    (np.float32, "FloatPixelPadding", "FL"), (np.float64, "DoubleFloatPixelPadding", "FD"),
])  # fmt: skip
@pytest.mark.parametrize("limit", [None, -9e8])
def test_padding_of_a_map_of_real_numbers_is_outside_of_it(kind, words, vr, limit):
    values = np.random.default_rng(3).normal(5, 2, (SIDE, SIDE)).astype(kind)
    values[:8] = -1e9 if limit is None else -9.5e8
    elements = {f"{words}Value": (vr, -1e9)} | ({f"{words}RangeLimit": (vr, limit)} if limit is not None else {})
    real = values[8:].astype(float)
    low, high = np.percentile(real, (0.5, 99.5))
    found = grey(real_numbers(values, **elements))
    assert (found[:8] == 0).all()
    assert np.abs(found[8:] - np.clip((real - low) / (high - low), 0, 1) * 255).max() <= 0.5 + 1e-6


WINDOWED = {"WindowCenter": "2048.0", "WindowWidth": "4096.0", "RescaleSlope": "0.5", "RescaleIntercept": "10.5"}


@pytest.mark.case("P4")
@pytest.mark.parametrize("word", WINDOWED)
@pytest.mark.parametrize("way", ["comma", "UT", "LO", "spaces"])
def test_a_number_is_read_whatever_its_vr_and_with_a_decimal_comma(word, way):
    plain = dicom(deep(SIDE, SIDE) % 4096, BitsStored=12, **WINDOWED)
    text = WINDOWED[word]
    if way == "comma":
        data = plain.replace(text.encode(), text.replace(".", ",").encode())
    elif way == "spaces":
        data = changed(plain, **{word: ("LO", f" {text}  ")})
    else:
        data = changed(plain, **{word: (way, text)})
    assert data != plain
    assert (seen(data).flags, np.array_equal(grey(data), grey(plain))) == ((), True)


@pytest.mark.case("P4")
@pytest.mark.parametrize(
    "word", ["PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio", "NominalScannedPixelSpacing"]
)
def test_the_shape_of_a_pixel_is_read_whatever_its_vr(word):
    values = deep(SIDE, SIDE) % 4096
    shape = ["2", "1"] if word == "PixelAspectRatio" else ["2.0", "1.0"]
    truth = grey(dicom(values, PixelSpacing=["2.0", "1.0"]), fit="pad")
    assert not np.array_equal(truth, grey(dicom(values), fit="pad"))
    plain = dicom(values, **{word: shape})
    assert np.array_equal(grey(plain, fit="pad"), truth)
    assert np.array_equal(grey(changed(plain, **{word: ("UT", "\\".join(shape))}), fit="pad"), truth)


@pytest.mark.case("P4")
@pytest.mark.parametrize("text", ["abc", "--", "1\\x"])
@pytest.mark.parametrize(("word", "elements"), [
    ("WindowCenter", {"WindowCenter": None, "WindowWidth": None}), ("RescaleSlope", {"RescaleSlope": None}),
    ("RescaleIntercept", {"RescaleIntercept": None}), ("PixelSpacing", {"PixelSpacing": None}),
    ("PixelPaddingValue", {"PixelPaddingValue": None}),
])  # fmt: skip
def test_an_optional_number_that_cannot_be_read_counts_as_missing_and_is_flagged(word, elements, text):
    given = {"WindowCenter": "900", "WindowWidth": "1800", "RescaleSlope": "2", "RescaleIntercept": "-7"}
    given |= {"PixelSpacing": ["1", "1"], "PixelPaddingValue": 4000}
    values = deep(SIDE, SIDE)
    broken = seen(changed(dicom(values, **given), **{word: ("LO", text)}), fit="pad")
    without = seen(dicom(values, **{k: v for k, v in given.items() if k not in elements}), fit="pad")
    assert f"unreadable {word}" in broken.flags
    assert np.array_equal(broken.pixels, without.pixels)


@pytest.mark.case("P4")
def test_a_rescale_slope_of_zero_is_passed_over_and_flagged():
    values = deep(SIDE, SIDE)
    found = seen(dicom(values, RescaleSlope="0", RescaleIntercept="5", WindowCenter="900", WindowWidth="1800"))
    assert found.flags == ("RescaleSlope of 0",)
    right = seen(dicom(values, RescaleIntercept="5", WindowCenter="900", WindowWidth="1800"))
    assert np.array_equal(found.pixels, right.pixels)


def colour_file(stream: bytes | list[bytes], syntax: str, photometric: str, *, compressed: bool = True) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(dicom(scene(SIDE, SIDE))))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PhotometricInterpretation = photometric
    dataset.PixelData = encapsulate([stream]) if compressed else stream
    if compressed:
        dataset["PixelData"].is_undefined_length = True
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


@pytest.mark.case("P3")
@pytest.mark.parametrize(
    "photometric", ["YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"]
)
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"])
def test_a_jpeg_is_ycbcr_whatever_the_header_calls_it(photometric, syntax):
    file = io.BytesIO()
    Image.fromarray(scene(SIDE, SIDE)).save(file, "JPEG", quality=95, subsampling=0)
    truth = np.asarray(Image.open(file).convert("RGB"), float)
    assert np.abs(seen(colour_file(file.getvalue(), syntax, photometric)).pixels - truth).mean() <= 1


@pytest.mark.case("P3")
@pytest.mark.parametrize("transform", [False, True])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "YBR_PARTIAL_422"])
def test_a_jpeg_2000_stream_decides_whether_its_colours_are_transformed(transform, photometric):
    colours = scene(SIDE, SIDE)
    ybr = photometric in ("YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422") and not transform
    components = np.asarray(Image.fromarray(colours).convert("YCbCr")) if ybr else colours
    file = io.BytesIO()
    Image.fromarray(components).save(file, "JPEG2000", no_jp2=True, mct=int(transform), irreversible=False)
    found = seen(colour_file(file.getvalue(), "1.2.840.10008.1.2.4.90", photometric)).pixels
    assert np.abs(found.astype(float) - colours).mean() <= (1 if ybr else 0)


@pytest.mark.case("P3")
def test_uncompressed_ycbcr_of_partial_range_is_converted_by_its_own_range():
    flat = np.repeat(scene(SIDE, SIDE)[:, ::2], 2, axis=1).astype(float)  # pairs of equal pixels: 4:2:2 loses nothing
    red, green, blue = np.moveaxis(flat, -1, 0)
    y = 16 + 65.481 / 255 * red + 128.553 / 255 * green + 24.966 / 255 * blue  # ITU-R BT.601
    b = 128 - 37.797 / 255 * red - 74.203 / 255 * green + 112 / 255 * blue
    r = 128 + 112 / 255 * red - 93.786 / 255 * green - 18.214 / 255 * blue
    units = np.stack([y[:, ::2], y[:, 1::2], b[:, ::2], r[:, ::2]], axis=-1)
    raw = np.rint(units).astype(np.uint8).tobytes()
    data = colour_file(raw, ExplicitVRLittleEndian, "YBR_PARTIAL_422", compressed=False)
    with open_image(data, "dcm", PixelSpec(SIDE, SIDE)) as image:
        for _ in range(2):  # also when it is asked for again
            picture = image.pixels(image.part(""))
            assert np.abs(picture.pixels - flat).max() <= 3  # of 220 and 225 levels instead of 256


@pytest.mark.case("P3")
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80"])
def test_partial_range_where_its_layout_is_not_known_is_unsupported_and_not_shown(syntax):
    with pytest.raises(PixelError, match="unsupported photometric interpretation: YBR_PARTIAL_422"):
        seen(colour_file(b"\0" * 64, syntax, "YBR_PARTIAL_422"))


DICOM_CASES = ("comma", "floatpad", "highbit", "j2kmct", "padding", "spacing", "voilut_neg", "ybrpartial")


@pytest.mark.case("P1", "P3", "P4")
@pytest.mark.parametrize("name", DICOM_CASES)
def test_the_two_ways_of_each_case_show_one_picture(name):
    for fit, window in product(("crop", "pad"), ("file", "percentile")):
        ok, bad = (seen((CASES / f"{name}_{way}.dcm").read_bytes(), fit=fit, window=window) for way in ("ok", "bad"))
        assert np.array_equal(ok.pixels, bad.pixels), (fit, window)


@pytest.mark.parametrize(("window", "flag"), [
    ({"WindowCenter": "40", "WindowWidth": "0"}, "unusable window: width 0"),
    ({"WindowCenter": "40", "WindowWidth": "-80"}, "unusable window: width -80"),
    ({"WindowCenter": "40", "WindowWidth": "80", "VOILUTFunction": "CUBIC"}, "unknown VOILUTFunction CUBIC"),
])  # fmt: skip
@pytest.mark.parametrize("bits", [8, 16])
def test_a_window_that_is_there_and_cannot_be_applied_is_flagged_at_every_depth(bits, window, flag):
    values = deep(SIDE, SIDE) if bits == 16 else (deep(SIDE, SIDE) % 256).astype(np.uint8)
    found, without = seen(dicom(values, **window)), seen(dicom(values))
    assert set(found.flags) == {flag, *without.flags}
    assert np.array_equal(found.pixels, without.pixels)


def test_a_codestream_with_more_bits_than_the_header_says_is_flagged():
    dataset = pydicom.dcmread(io.BytesIO(dicom(deep(SIDE, SIDE) % 4096, WindowCenter="2048", WindowWidth="4096")))
    dataset.compress("1.2.840.10008.1.2.4.90")
    file = io.BytesIO()
    dataset.save_as(file)
    assert seen(file.getvalue()).flags == ()
    dataset.BitsStored, dataset.HighBit = 10, 9
    file = io.BytesIO()
    dataset.save_as(file)
    assert seen(file.getvalue()).flags == ("values beyond BitsStored",)


def indexed(bits: int, data: np.ndarray, syntax=ExplicitVRLittleEndian, first: int = 0) -> bytes:
    """0, 1, … through a palette of `data`, stored as it is, with the descriptor's number of bits."""
    indices = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE)
    dataset = pydicom.dcmread(io.BytesIO(dicom(indices)))
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    dataset["PixelData"].VR = "OB"  # no words, whose bytes would be swapped
    for colour in ("Red", "Green", "Blue"):
        dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, first, bits])
        dataset.add_new(f"{colour}PaletteColorLookupTableData", "OW", data.tobytes())
    dataset.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, implicit_vr=False, little_endian=syntax.is_little_endian, force_encoding=True)
    return file.getvalue()


@pytest.mark.case("P2")
@pytest.mark.parametrize(("bits", "entries", "factor"), [
    (16, "u2", 257), (16, "u2", 256), (16, "u2", 1), (12, "u2", 16), (8, "u2", 1), (8, "u2", 257), (8, "u2", 256),
    (8, "u1", 1), (16, "u1", 1),
])  # fmt: skip
@pytest.mark.parametrize("order", "<>")
def test_a_palette_shows_the_same_colours_however_its_entries_are_stored(bits, entries, factor, order):
    table = (255 - np.arange(256)) * factor
    data = table.astype(entries)
    if entries == "u1" and order == ">":  # two to a word, whose bytes are swapped
        data = data.reshape(-1, 2)[:, ::-1]
    data = data.astype(f"{order}{entries}")
    picture = seen(indexed(bits, data, ExplicitVRLittleEndian if order == "<" else ExplicitVRBigEndian))
    truth = 255 - np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 256
    assert np.abs(picture.pixels - truth[..., None]).max() <= 1
    assert bool(picture.flags) == ((bits, entries, factor) == (16, "u2", 1))  # where the header says otherwise


@pytest.mark.case("P4")
@pytest.mark.parametrize(("vr", "value"), [("SS", -2000), ("US", 63536), ("US", 2096), ("DS", "-2000"), ("UL", 63536)])
def test_padding_of_signed_pixels_is_found_in_whatever_way_it_is_written(vr, value):
    values = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 900).astype(np.int16)
    without = dicom(values)
    values[:4] = -2000
    dataset = pydicom.dcmread(io.BytesIO(dicom(values)))
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.add_new("PixelPaddingValue", vr, value)
    file = io.BytesIO()
    dataset.save_as(file)
    assert (grey(file.getvalue())[:4] == 0).all()
    assert np.abs(grey(file.getvalue())[4:] - grey(without)[4:]).max() <= 2  # the percentiles of other rows


@pytest.mark.case("P5")
@pytest.mark.parametrize(("elements", "words"), [
    ({"PhotometricInterpretation": "YBR_RCT"}, "YBR_RCT without JPEG 2000"), ({"HighBit": 20}, "HighBit 20"),
    ({"HighBit": 3}, "HighBit 3"), ({"HighBit": None}, None),
])  # fmt: skip
def test_a_header_that_contradicts_its_pixels_is_shown_with_a_flag(elements, words):
    colour = "PhotometricInterpretation" in elements
    dataset = pydicom.dcmread(io.BytesIO(dicom(scene(SIDE, SIDE) if colour else np.full((SIDE, SIDE), 9, np.uint8))))
    for word, value in elements.items():
        setattr(dataset, word, value)
    file = io.BytesIO()
    dataset.save_as(file)
    flags = seen(file.getvalue()).flags
    assert any(words in flag for flag in flags) if words else not any("HighBit" in flag for flag in flags)


@pytest.mark.case("P5")
@pytest.mark.parametrize(("elements", "reason"), [
    ({"PhotometricInterpretation": "YBR_FULL", "BitsAllocated": 16}, "unsupported photometric interpretation"),
    ({"PhotometricInterpretation": "MONOCHROME2"}, "MONOCHROME2 with 3 samples"),
    ({"BitsStored": None}, "no BitsStored"), ({"SamplesPerPixel": None}, "no SamplesPerPixel"),
])  # fmt: skip
def test_a_header_that_cannot_be_followed_is_refused_by_the_name_of_its_element(elements, reason):
    dataset = pydicom.dcmread(io.BytesIO(dicom(scene(SIDE, SIDE))))
    if "BitsAllocated" in elements:
        dataset.PixelData = np.frombuffer(dataset.PixelData, np.uint8).astype("<u2").tobytes()
    for word, value in elements.items():
        setattr(dataset, word, value)
    file = io.BytesIO()
    dataset.save_as(file)
    with pytest.raises(PixelError, match=reason):
        seen(file.getvalue())


@pytest.mark.parametrize("element", [0x00280102, 0x00280100, 0x00280103, 0x00280004])  # HighBit and others of pixels
def test_an_element_of_the_pixels_with_a_representation_that_does_not_exist_is_a_named_failure(element: int) -> None:
    whole = dicom(np.full((SIDE, SIDE), 9, np.uint8))
    tag = (element >> 16).to_bytes(2, "little") + (element & 0xFFFF).to_bytes(2, "little")
    at = whole.index(tag) + len(tag)
    assert whole[at : at + 2] in (b"US", b"CS")
    with pytest.raises(PixelError):
        seen(whole[:at] + b"ES" + whole[at + 2 :])
