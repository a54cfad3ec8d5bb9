"""TIFF: every way to write a picture shows it alike, against the numbers it was written from."""

from __future__ import annotations

import io
from itertools import product
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from indexer.errors import PixelError
from indexer.pixels import decode, decode_part, open_image
from indexer.pixels.tiff.values import page_values
from indexer.types import PixelSpec
from tests.pictures import deep, encoded, scene, tiff
from tests.tiffs import COMPRESSIONS, tiff_of

SIDE = 48
SPEC = PixelSpec(SIDE, SIDE, window="minmax")
CASES = Path(__file__).parents[1] / "cases" / "pixels"
GREY_TYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")


def seen(data: bytes, spec: PixelSpec = SPEC) -> np.ndarray:
    (picture,) = decode(data, "tif", spec)
    return picture.pixels


def grey(kind: str) -> np.ndarray:
    """(SIDE, SIDE, 1) over most of the type's range, every value another; of real numbers, odd fractions."""
    ramp = np.random.default_rng(5).permutation(SIDE * SIDE).reshape(SIDE, SIDE, 1) / (SIDE * SIDE - 1)
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        return (ramp * 1900.7 - 300.3).astype(dtype)
    info = np.iinfo(dtype)
    return (info.min * 0.9 + ramp * (info.max * 0.9 - info.min * 0.9)).astype(dtype)


def min_max(values: np.ndarray) -> np.ndarray:
    """(h, w, 1) → (h, w, 3): a window from the least to the greatest value."""
    real = values.astype(np.float64)
    return np.repeat((real - real.min()) / (real.max() - real.min()) * 255, 3, axis=2)


def written_out(values: np.ndarray) -> np.ndarray:
    """What is shown of grey values: 8 unsigned bits as they are."""
    return np.repeat(values.astype(np.float64), 3, axis=2) if values.dtype == np.uint8 else min_max(values)


@pytest.mark.case("P2")
@pytest.mark.parametrize("kind", GREY_TYPES)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_grey_page_is_its_numbers_in_every_byte_order_predictor_polarity_and_layout(kind, compression):
    values = grey(kind)
    floats = values.dtype.kind == "f"
    for order, predictor, white, tile in product("<>", (1, 3 if floats else 2), (False, True), (0, 32)):
        predictor = 1 if compression == "none" else predictor
        data = tiff_of(values, 0 if white else 1, order=order, compression=compression, predictor=predictor, tile=tile)
        truth = 255 - written_out(values) if white else written_out(values)
        assert np.abs(seen(data) - truth).max() <= 0.5 + 1e-6, (order, predictor, white, tile)


@pytest.mark.case("P2")
@pytest.mark.parametrize("compression", ["none", "lzw", "deflate", "packbits"])
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_colour_and_alpha_are_what_was_written_in_every_byte_order_and_plane(kind, compression):
    rng = np.random.default_rng(3)
    top = np.iinfo(kind).max
    values = rng.integers(0, top, (SIDE, SIDE, 4), endpoint=True).astype(kind)
    unit = values.astype(np.float64) / top
    for order, planar, tile, alpha in product("<>", (1, 2), (0, 32), (None, 0, 1, 2)):
        given = values if alpha is not None else values[..., :3]
        tags = {338: (alpha,)} if alpha is not None else None
        predictor = 1 if compression == "none" else 2
        data = tiff_of(np.ascontiguousarray(given), 2, order=order, compression=compression, predictor=predictor,
                       planar=planar, tile=tile, tags=tags)  # fmt: skip
        truth = unit[..., :3] * (unit[..., 3:] if alpha == 2 else 1) * 255
        assert np.abs(seen(data) - truth).max() <= 1 + 1e-6, (order, planar, tile, alpha)


@pytest.mark.parametrize("alpha", [1, 2])
@pytest.mark.parametrize("white", [False, True])
def test_grey_with_alpha_stands_on_black(white, alpha):
    values = np.random.default_rng(4).integers(0, 256, (SIDE, SIDE, 2)).astype(np.uint8)
    shade = 255 - values[..., :1].astype(float) if white else values[..., :1].astype(float)
    truth = np.repeat(shade * (values[..., 1:] / 255 if alpha == 2 else 1), 3, axis=2)
    data = tiff_of(values, 0 if white else 1, compression="lzw", tags={338: (alpha,)})
    assert np.abs(seen(data) - truth).max() <= 1


@pytest.mark.case("P2")
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("compression", ["none", "lzw", "packbits"])
def test_a_palette_is_looked_up_whether_its_values_have_8_or_16_bits(bits, compression):
    indices = np.random.default_rng(6).integers(0, 2**bits, (SIDE, SIDE, 1)).astype(np.uint8)
    colours = np.random.default_rng(7).integers(0, 256, (3, 2**bits))
    colours[:, -1] = (250, 40, 3)
    truth = np.moveaxis(colours[:, indices[..., 0]], 0, -1)
    for order, factor in product("<>", (1, 256, 257)):
        tags = {320: tuple(int(c) for c in (colours * factor).ravel())}
        data = tiff_of(indices, 3, order=order, compression=compression, bits=bits, tags=tags)
        assert np.array_equal(seen(data), truth), (order, factor)


@pytest.mark.case("P2")
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 7, 10, 12, 14, 20, 24])
@pytest.mark.parametrize("compression", ["none", "lzw", "deflate"])
def test_samples_of_an_odd_number_of_bits_are_unpacked(bits, compression):
    dtype = np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32
    values = np.random.default_rng(bits).integers(0, 2**bits, (SIDE, SIDE - 5, 1)).astype(dtype)
    values[0, 0], values[0, 1] = 0, 2**bits - 1
    spec = PixelSpec(SIDE, SIDE, window="full" if bits <= 16 else "minmax", fit="squash")
    truth = np.repeat(np.rint(values / (2**bits - 1) * 255), 3, axis=2).astype(np.uint8)
    plain = seen(encoded(truth, "PNG"), spec)
    for order in "<>":
        if bits == 24 and order == "<":
            continue  # whole bytes follow the byte order: see the next test
        for fill in (1, 2):
            data = tiff_of(values, 1, order=order, compression=compression, bits=bits, fill_order=fill)
            assert np.abs(seen(data, spec).astype(int) - plain).max() <= 1, (order, fill)


@pytest.mark.case("P2")
@pytest.mark.parametrize("order", ["<", ">"])
def test_24_bit_numbers_follow_the_files_byte_order(order):
    values = np.random.default_rng(8).integers(0, 2**24, (SIDE, SIDE, 1)).astype(np.uint32)
    raw = values.astype(">u4").view(np.uint8).reshape(SIDE, SIDE, 4)[..., 1:]
    data = tiff_of(np.ascontiguousarray(raw if order == ">" else raw[..., ::-1]), 1, order=order, rows=SIDE)
    wide = tiff_of(values, 1, order=order, rows=SIDE, bits=24)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        start, nbytes = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    with tifffile.TiffFile(io.BytesIO(wide)) as file:
        at = file.pages[0].dataoffsets[0]
    mixed = wide[:at] + data[start : start + nbytes] + wide[at + nbytes :]
    assert np.abs(seen(mixed) - min_max(values)).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("compression", ["none", "lzw"])
@pytest.mark.parametrize("planar", [1, 2])
def test_cmyk_is_shown_as_light_on_white(compression, planar):
    inks = np.random.default_rng(9).integers(0, 256, (SIDE, SIDE, 4)).astype(np.uint8)
    truth = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255
    assert np.abs(seen(tiff_of(inks, 5, compression=compression, planar=planar)) - truth).max() <= 1


def test_jpeg_and_fax_pages_are_as_pillow_shows_them():
    image = Image.fromarray(scene(SIDE, SIDE))
    for data in (encoded(image, "TIFF", compression="jpeg"), encoded(image.convert("1"), "TIFF", compression="group4"),
                 encoded(image.convert("L"), "TIFF", compression="jpeg")):  # fmt: skip
        truth = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert np.array_equal(seen(data), truth)


@pytest.mark.case("P2")
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_reduced_copies_masks_and_old_style_thumbnails_are_no_parts_and_rows_can_be_read_back(compression):
    file = io.BytesIO()
    pages = [deep(40, 40, seed=n) for n in range(3)]
    with tifffile.TiffWriter(file) as writer:
        for page in pages:
            writer.write(page, photometric="minisblack", metadata=None, compression=compression)
            writer.write(
                page[::4, ::4], photometric="minisblack", subfiletype=1, metadata=None, compression=compression
            )
            writer.write(page[::4, ::4], photometric="minisblack", metadata=None, extratags=[(255, 3, 1, 2, True)])
            writer.write(page[::4, ::4] > 9, photometric="mask", subfiletype=4, metadata=None)
    data = file.getvalue()
    with open_image(data, "tif", SPEC) as image:
        parts = list(image.parts())
    assert [(part.name, part.facts) for part in parts] == [(str(n), {"page": 4 * n}) for n in range(3)]
    for part, page in zip(parts, pages, strict=True):
        truth = seen(tiff_of(page[..., None], 1))
        assert np.array_equal(decode_part(data, "tif", SPEC, part.name).pixels, truth)


@pytest.mark.case("P2")
@pytest.mark.parametrize("options", [{}, {"imagej": True}, {"bigtiff": True}])
def test_a_stack_of_one_directory_is_as_many_parts_as_one_of_many(options):
    planes = np.stack([deep(40, 40, seed=n) for n in range(5)])
    apart, together = io.BytesIO(), io.BytesIO()
    tifffile.imwrite(apart, planes, photometric="minisblack")
    if options.get("imagej"):
        tifffile.imwrite(together, planes, imagej=True)
    else:
        with tifffile.TiffWriter(together, **options) as writer:
            writer.write(planes, photometric="minisblack", contiguous=True, truncate=True)
    for data in (apart.getvalue(), together.getvalue()):
        found = list(decode(data, "tif", SPEC))
        assert [picture.part.name for picture in found] == ["0", "1", "2", "3", "4"]
        for picture, plane in zip(found, planes, strict=True):
            assert np.array_equal(picture.pixels, seen(tiff_of(plane[..., None], 1)))


def test_a_stack_that_was_cut_is_named_truncated():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(np.stack([deep(40, 40)] * 5), photometric="minisblack", truncate=True)
    data = file.getvalue()
    with pytest.raises(PixelError, match="truncated"):
        list(decode(data[: len(data) - 2000], "tif", SPEC))


@pytest.mark.case("P2")
def test_the_depth_of_a_page_is_its_parts():
    volume = np.stack([deep(48, 48, seed=n) for n in range(16)])
    file = io.BytesIO()
    tifffile.imwrite(file, volume, photometric="minisblack", volumetric=True, tile=(16, 16, 16), metadata=None)
    found = list(decode(file.getvalue(), "tif", SPEC))
    assert [picture.part.facts["plane"] for picture in found] == list(range(16))
    for picture, plane in zip(found, volume, strict=True):
        assert np.array_equal(picture.pixels, seen(tiff_of(plane[..., None], 1)))


@pytest.mark.case("P5")
@pytest.mark.parametrize(
    "data",
    [
        tiff_of(grey("u1"), 8),  # CIELab of one sample is not, but the model is named first
        tiff_of(grey("f4"), 1, predictor=2, compression="lzw"),
        tiff_of(np.repeat(grey("u1"), 4, 2), 5, tags={332: (2,)}),
        tiff_of(grey("u1"), 1, tags={259: (34887,)}),
    ],
    ids=["lab", "predictor of floats", "other inks", "lerc"],
)
def test_what_is_whole_and_not_supported_is_called_unsupported(data):
    with pytest.raises(PixelError, match="unsupported TIFF"):
        seen(data)


@pytest.mark.case("P2")
@pytest.mark.parametrize(
    "name", ["be_f32", "be_i16", "pal8in16", "pred3", "reduced", "rgba16", "stack", "u32", "white16"]
)
def test_the_two_ways_of_each_case_show_one_picture(name):
    ok, bad = (
        [p.pixels for p in decode((CASES / f"{name}_{way}.tif").read_bytes(), "tif", PixelSpec(64, 64))]
        for way in ("ok", "bad")
    )
    assert len(ok) == len(bad) > 0
    assert np.array_equal(ok, bad)


def test_a_predictor_of_uncompressed_data_is_ignored_as_libtiff_does_and_flagged():
    values = grey("u1")
    data = tiff_of(values, 1, predictor=2)
    (picture,) = decode(data, "tif", SPEC)
    assert picture.flags == ("predictor without compression ignored",)
    assert np.array_equal(picture.pixels[..., 0], imagecodecs.tiff_decode(data))
    assert np.array_equal(picture.pixels[..., 0], np.asarray(Image.open(io.BytesIO(data))))


def field(data: bytes, tag: int) -> tuple[int, int]:
    """The place of a field's first value in a little-endian file, and the number of values."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        found = file.pages[0].tags[tag]
        return found.valueoffset, found.count


def test_a_page_with_too_few_strips_or_a_strip_in_the_header_is_not_shown_as_black():
    whole = tiff_of(grey("u1"), 1, rows=8, compression="lzw")
    for tag, reason in ((273, "corrupt image"), (279, "corrupt image")):
        at, count = field(whole, tag)
        assert count == 6
        data = bytearray(whole)
        data[at + 4 : at + 8] = bytes(4)  # the second strip begins at 0, or has no byte
        with pytest.raises(PixelError, match=reason):
            seen(bytes(data))
    few = tiff_of(grey("u1"), 1, rows=24)
    at, _ = field(few, 278)
    data = few[:at] + (8).to_bytes(4, "little") + few[at + 4 :]  # strips of 8 rows need six of them
    with pytest.raises(PixelError, match="truncated"):
        seen(data)


@pytest.mark.parametrize("compression", ["deflate", "lzma"])
def test_a_strip_whose_checksum_is_wrong_is_corrupt(compression):
    data = bytearray(tiff_of(grey("u1"), 1, rows=SIDE, compression=compression))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        end = file.pages[0].dataoffsets[0] + file.pages[0].databytecounts[0]
    data[end - (4 if compression == "deflate" else 40)] ^= 0xFF  # Adler-32, or the check inside xz
    with pytest.raises(PixelError, match="corrupt image"):
        seen(bytes(data))


def test_sides_that_are_written_as_fractions_are_an_empty_image():
    data = bytearray(tiff_of(grey("u1"), 1))
    at, _ = field(bytes(data), 257)
    data[at - 6 : at - 4] = (11).to_bytes(2, "little")  # ImageLength as FLOAT: 6.7e-44
    with pytest.raises(PixelError, match="empty image"):
        seen(bytes(data))


@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_webp_strips_and_tiles_are_as_another_reader_shows_them(tile):
    data = tiff(scene(SIDE, SIDE), photometric="rgb", compression="webp", rowsperstrip=None if tile else 20, tile=tile)
    assert np.abs(seen(data).astype(int) - tifffile.imread(io.BytesIO(data))).max() <= 1


def test_what_the_codec_library_cannot_open_is_unsupported_and_not_corrupt():
    data = tiff(scene(SIDE, SIDE)[..., 0], compression="jpeg", bigtiff=True, byteorder=">")
    with pytest.raises(PixelError, match="unsupported TIFF"):
        seen(data)


@pytest.mark.parametrize("tile", [0, 16])
@pytest.mark.parametrize("compression", ["none", "lzw", "zstd", "deflate"])
def test_a_page_of_more_strips_than_are_unpacked_at_once_is_whole(compression, tile, monkeypatch):
    monkeypatch.setattr("indexer.pixels.tiff.values.BATCH_BYTES", 700)
    values = np.random.default_rng(1).integers(0, 65536, (61, 37, 3)).astype(np.uint16)
    data = tiff_of(values, 2, compression=compression, rows=2, tile=tile, planar=2)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert np.array_equal(page_values(file.pages[0], data)[0], values)


def retyped(data: bytes, tag: int, kind: int) -> bytes:
    """With a field of another type: 99 is none, so that no reader can know its value."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        entry = file.pages[0].tags[tag].offset
    return data[: entry + 2] + kind.to_bytes(2, "little") + data[entry + 4 :]


@pytest.mark.parametrize("tag", [258, 259, 262, 273, 277, 278, 279, 284, 317, 338, 339])
def test_a_field_that_decides_the_values_and_cannot_be_read_is_never_taken_for_its_default(tag):
    values = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 2)).astype(np.uint8)
    data = tiff_of(values, 1, compression="lzw", predictor=2, tags={338: (2,)})
    seen(data)
    with pytest.raises(PixelError, match="corrupt image: TIFF: unreadable"):
        seen(retyped(data, tag, 99))


def test_an_orientation_that_cannot_be_read_or_is_none_is_flagged():
    turned, plain = tiff_of(grey("u1"), 1, tags={274: (6,)}), tiff_of(grey("u1"), 1)
    for data in (retyped(turned, 274, 99), tiff_of(grey("u1"), 1, tags={274: (9,)})):
        (picture,) = decode(data, "tif", SPEC)
        assert picture.flags == ("unreadable Orientation",)
        assert np.array_equal(picture.pixels, seen(plain))


@pytest.mark.parametrize("samples", [1, 3])
def test_a_page_that_names_no_colour_model_is_shown_as_libtiff_guesses_and_flagged(samples):
    values = np.random.default_rng(2).integers(0, 256, (SIDE, SIDE, samples)).astype(np.uint8)
    data = tiff_of(values, 2 if samples == 3 else 0)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        entry = file.pages[0].tags[262].offset
    data = data[:entry] + (65000).to_bytes(2, "little") + data[entry + 2 :]  # a private field in its place
    (picture,) = decode(data, "tif", SPEC)
    assert picture.flags == ("no PhotometricInterpretation in file",)
    assert np.array_equal(picture.pixels, np.broadcast_to(values, (SIDE, SIDE, 3)))
    assert np.array_equal(imagecodecs.tiff_decode(data).reshape(values.shape), values)


@pytest.mark.parametrize("reference", [None, (16, 235, 128, 240, 128, 240)])
@pytest.mark.parametrize("coefficients", [None, (2126, 7152, 722)])
def test_ycbcr_is_converted_by_the_pages_own_coefficients_and_range_as_libtiff_does(reference, coefficients):
    values = np.random.default_rng(3).integers(16, 236, (SIDE, SIDE, 3)).astype(np.uint8)
    tags = [(530, 3, 2, (1, 1), True)]
    if coefficients:
        tags.append((529, 5, 3, tuple(n for c in coefficients for n in (c, 10_000)), True))
    if reference:
        tags.append((532, 5, 6, tuple(n for c in reference for n in (c, 1)), True))
    data = tiff(values, photometric="ycbcr", compression="lzw", extratags=tags, metadata=None)
    (picture,) = decode(data, "tif", SPEC)
    assert picture.flags == ()
    off = np.abs(picture.pixels - imagecodecs.tiff_decode(data)[..., :3].astype(int))
    assert (off.max() <= 4, off.mean() < 0.6) == (True, True)  # libtiff computes with whole numbers


def test_a_reference_range_without_width_is_flagged_and_not_divided_by():
    values = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    tags = [(530, 3, 2, (1, 1), True), (532, 5, 6, (0, 1) * 6, True)]
    (picture,) = decode(
        tiff(values, photometric="ycbcr", compression="lzw", extratags=tags, metadata=None), "tif", SPEC
    )
    (plain,) = decode(
        tiff(values, photometric="ycbcr", compression="lzw", extratags=tags[:1], metadata=None), "tif", SPEC
    )
    assert (picture.flags, plain.flags) == (("unusable YCbCrCoefficients or ReferenceBlackWhite",), ())
    assert np.array_equal(picture.pixels, plain.pixels)
