"""Files of every kind become the picture that was stored in them. Truths: Pillow, torchvision and numpy."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize_image

from indexer.errors import PixelError, WindowError
from indexer.pixels import decode, decode_part
from indexer.pixels.fit import reduction, square
from indexer.pixels.window import CT_PRESETS, parse_window
from indexer.types import PixelSpec
from tests.pictures import deep, dicom, encoded, scene, tiff


def picture(data: bytes, suffix: str = "", **spec) -> np.ndarray:
    return one(data, suffix, **spec).pixels


def one(data: bytes, suffix: str = "", **spec):
    found = list(decode(data, suffix, PixelSpec(**({"size": 224, "resize": 224} | spec))))
    assert len(found) == 1
    return found[0]


def difference(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def by_pillow(image: Image.Image, size: int = 224) -> np.ndarray:
    """Shorter side to `size`, centre crop: with Pillow alone."""
    scale = size / min(image.size)
    width, height = (max(size, int(side * scale)) for side in image.size)
    image = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize(("height", "width"), [(240, 320), (500, 301), (224, 224), (90, 70)])
def test_jpeg_is_within_one_grey_level_of_pillow(height, width):
    data = encoded(scene(height, width), "JPEG", quality=95, subsampling=0)
    assert difference(picture(data), by_pillow(Image.open(io.BytesIO(data)))) <= 1


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(301, 97), (64, 64), (1, 300), (9, 7), (640, 512)])
def test_a_square_is_bit_for_bit_torchvisions(shape, channels, interpolation):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, channels), np.uint8)
    planes = torch.from_numpy(pixels).permute(2, 0, 1)
    theirs = resize_image(planes, [64, 64], interpolation=InterpolationMode(interpolation), antialias=True)
    ours = square(pixels, PixelSpec(64, 64, interpolation, "squash"))
    assert np.array_equal(ours, theirs.permute(1, 2, 0).expand(-1, -1, 3).numpy())


def test_a_large_jpeg_is_shrunk_while_decoding_and_stays_near_the_full_decode():
    data = encoded(scene(1800, 2400), "JPEG", quality=95)
    full = by_pillow(Image.open(io.BytesIO(data)))
    assert np.abs(picture(data).astype(float) - full).mean() < 1


@pytest.mark.parametrize(
    ("side", "target", "factor"), [(671, 224, 1), (1344, 224, 2), (1343, 224, 1), (2688, 224, 4), (5376, 224, 8)]
)
def test_a_decoder_shrinks_only_while_three_times_the_target_remains(side, target, factor):
    assert reduction(side, side, PixelSpec(target, target)) == factor
    assert side // factor >= 3 * target or factor == 1


@pytest.mark.parametrize("side", [300, 1000, 1300])
def test_a_large_jpeg_that_is_not_shrunk_is_within_one_grey_level_of_pillow(side):
    data = encoded(scene(side, side), "JPEG", quality=90)
    assert difference(picture(data), by_pillow(Image.open(io.BytesIO(data)))) <= 1


LOSSLESS = {
    "png": lambda p: encoded(p, "PNG"),
    "tiff": lambda p: tiff(p),
    "tiff lzw": lambda p: encoded(p, "TIFF", compression="tiff_lzw"),
    "tiff deflate": lambda p: tiff(p, compression="zlib"),
    "tiff planar": lambda p: tiff(np.moveaxis(p, -1, 0).copy(), photometric="rgb", planarconfig="separate"),
    "tiff 16 bit": lambda p: tiff(p.astype(np.uint16) * 257, photometric="rgb"),
    "webp": lambda p: encoded(p, "WEBP", lossless=True, exact=True),
    "bmp": lambda p: encoded(p, "BMP"),
    "pnm": lambda p: encoded(p, "PPM"),
    "dicom": lambda p: dicom(p),
    "png with alpha of 255": lambda p: encoded(np.dstack([p, np.full(p.shape[:2], 255, np.uint8)]), "PNG"),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_the_same_colours_through_every_kind_give_the_same_square(kind):
    assert difference(picture(LOSSLESS[kind](scene())), by_pillow(Image.fromarray(scene()))) <= 1


@pytest.mark.parametrize(
    "encode",
    [
        lambda p: encoded(p, "PNG"),
        lambda p: encoded(p, "TIFF", compression="tiff_lzw"),
        lambda p: tiff(255 - p, photometric="miniswhite"),
        lambda p: encoded(p, "PPM"),
        lambda p: dicom(p),
        lambda p: dicom(255 - p, PhotometricInterpretation="MONOCHROME1"),
        lambda p: encoded(Image.fromarray(p).convert("LA"), "PNG"),
    ],
)
def test_the_same_grey_through_every_kind_gives_the_same_square(encode):
    grey = scene()[..., 0]
    assert difference(picture(encode(grey)), by_pillow(Image.fromarray(grey))) <= 1


@pytest.mark.parametrize(
    "encode",
    [
        lambda p: encoded(p, "PNG"),
        lambda p: encoded(p, "PPM"),
        lambda p: tiff(p),
        lambda p: tiff(p.astype(">u2"), byteorder=">"),
        lambda p: tiff(p, compression="zlib"),
        lambda p: encoded(p, "TIFF", compression="tiff_lzw"),
        lambda p: tiff(p.astype(np.float32)),
        lambda p: tiff(p.astype(np.int32)),
        lambda p: tiff(4095 - p, photometric="miniswhite"),
        lambda p: dicom(p),
        lambda p: dicom(p.astype(np.int16)),
    ],
    ids=[
        "png",
        "pgm",
        "tiff",
        "big endian",
        "deflate",
        "lzw",
        "float",
        "int32",
        "white is zero",
        "dicom",
        "signed dicom",
    ],
)
def test_sixteen_bits_are_scaled_by_percentiles_through_every_kind(encode):
    grey = np.minimum(deep(160, 160), 4095)
    low, high = np.percentile(grey, (0.5, 99.5))
    truth = np.clip((grey - low) / (high - low), 0, 1) * 255
    found = picture(encode(grey), size=160, resize=160)[..., 0].astype(float)
    assert np.abs(found - truth).max() <= 1


def test_white_is_zero_shows_low_values_bright():
    grey = deep(64, 64)
    found = picture(tiff(grey, photometric="miniswhite"), size=64, resize=64)[..., 0]
    assert found[0].mean() > 250 > 5 > found[-1].mean()


@pytest.mark.parametrize(
    ("window", "low", "high"), [("full", 0, 65535), ("minmax", None, None), ("1000,501", 749.5, 1249.5)]
)
def test_sixteen_bit_window_rules(window, low, high):
    grey = deep(64, 64)
    low, high = (grey.min(), grey.max()) if low is None else (low, high)
    truth = np.clip((grey - float(low)) / (high - low), 0, 1) * 255
    found = picture(encoded(grey, "PNG"), size=64, resize=64, window=window)[..., 0]
    assert np.abs(found - truth).max() <= 0.51


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 60000),
    st.integers(2, 5535),
    st.integers(0, 2**32 - 1),
    st.sampled_from([np.uint16, np.int16, np.float32, np.uint32]),
)
def test_any_sixteen_bit_picture_uses_the_whole_range_in_order(base, spread, seed, dtype):
    values = (base % (65536 if dtype != np.int16 else 27000)) + np.random.default_rng(seed).integers(
        0, spread, (24, 24)
    )
    values[0, :2] = values.min(), values.min() + spread
    found = picture(tiff(values.astype(dtype)), size=24, resize=24, window="minmax")[..., 0]
    assert found.min() == 0
    assert found.max() == 255
    order = np.argsort(values.ravel(), kind="stable")
    assert (np.diff(found.ravel()[order].astype(int)) >= 0).all()


def test_three_windows_become_red_green_and_blue():
    grey = deep(64, 64)
    data = encoded(grey, "PNG")
    found = picture(data, size=64, resize=64, window="500,400;1500,900;3000,1800")
    for channel, window in enumerate(("500,400", "1500,900", "3000,1800")):
        assert np.array_equal(found[..., channel], picture(data, size=64, resize=64, window=window)[..., 0])


def test_a_constant_deep_image_is_mid_grey_and_says_so():
    found = one(encoded(np.full((40, 50), 777, np.uint16), "PNG"))
    assert (found.pixels == 128).all()
    assert found.flags == ("constant image",)


def test_a_nearly_constant_deep_image_shows_its_few_other_pixels():
    grey = np.full((64, 64), 100, np.uint16)
    grey[3, 5] = 9000
    found = picture(encoded(grey, "PNG"), size=64, resize=64)[..., 0]
    assert found[3, 5] == 255
    assert np.count_nonzero(found) == 1


def test_not_a_number_is_black_and_does_not_move_the_window():
    grey = deep(64, 64).astype(np.float32)
    plain = picture(tiff(grey), size=64, resize=64)
    grey[0, :32] = np.nan
    found = picture(tiff(grey), size=64, resize=64)
    assert (found[0, :32] == 0).all()
    assert difference(found[10:], plain[10:]) <= 3


def test_alpha_is_composited_on_black():
    rgba = np.dstack([scene(64, 64), np.linspace(0, 255, 64 * 64).astype(np.uint8).reshape(64, 64)])
    truth = np.rint(rgba[..., :3] * (rgba[..., 3:] / 255.0))
    for data in (
        encoded(rgba, "PNG"),
        encoded(rgba, "WEBP", lossless=True, exact=True),
        tiff(rgba, photometric="rgb", extrasamples=["unassalpha"]),
    ):
        assert np.abs(picture(data, size=64, resize=64) - truth).max() <= 1


def test_palette_cmyk_and_one_bit_pictures_show_their_colours():
    image = Image.fromarray(scene())
    palette = image.quantize(64)
    assert difference(picture(encoded(palette, "PNG")), by_pillow(palette.convert("RGB"))) <= 1
    assert difference(picture(encoded(palette, "GIF")), by_pillow(palette.convert("RGB"))) <= 1
    data = encoded(image.convert("CMYK"), "JPEG", quality=95)
    assert difference(picture(data), by_pillow(Image.open(io.BytesIO(data)).convert("RGB"))) <= 2
    assert difference(picture(data), by_pillow(image)) < 40  # and not its negative
    bilevel = image.convert("1")
    assert difference(picture(encoded(bilevel, "TIFF", compression="group4")), by_pillow(bilevel.convert("L"))) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation_is_applied(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = encoded(scene(200, 300), kind, exif=exif.tobytes() if kind != "TIFF" else exif, **options)
    truth = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert difference(picture(data), by_pillow(truth)) <= 2


def test_every_page_is_a_part_and_parts_can_be_chosen():
    pages = np.stack([deep(40, 40, seed=number) + 100 * number for number in range(5)])
    data = tiff(pages, photometric="minisblack")
    every = list(decode(data, "tif", PixelSpec(40, 40)))
    assert [p.part.name for p in every] == ["0", "1", "2", "3", "4"]
    assert [p.part.facts for p in every] == [{"page": number} for number in range(5)]
    for frames, index in (("first", 0), ("middle", 2)):
        (found,) = decode(data, "tif", PixelSpec(40, 40), frames=frames)
        assert found.part.name == str(index)
        assert np.array_equal(found.pixels, every[index].pixels)
    for name, index in (("", 0), ("0", 0), ("3", 3)):
        found = decode_part(data, "tif", PixelSpec(40, 40), name)
        assert found.part.name == str(index)
        assert np.array_equal(found.pixels, every[index].pixels)
    for name in ("9", "03", "-1", "x", "٣"):
        with pytest.raises(PixelError, match="no such part"):
            decode_part(data, "tif", PixelSpec(40, 40), name)


@pytest.mark.case("P5")
@pytest.mark.parametrize("opaque", [True, False])
@pytest.mark.parametrize("top", [4000, 60_000])
def test_a_png_of_16_bit_grey_and_alpha_is_windowed_as_one_without_alpha(opaque, top):
    values = deep(64, 64, top=top)
    alpha = np.full((64, 64), 65535, np.uint16)
    if not opaque:
        alpha[:, 20:40] = 20_000
    rows = np.stack([values, alpha], axis=-1).astype(">u2").view(np.uint8).reshape(64, -1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 16, 4, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    spec = PixelSpec(64, 64)
    (plain,), (found,) = decode(encoded(values, "PNG"), "png", spec), decode(data, "png", spec)
    assert plain.pixels.std() > 60
    assert np.abs(found.pixels - plain.pixels * (alpha / 65535.0)[..., None]).max() <= 0.5 + 1e-9


@pytest.mark.case("P5")
def test_a_whole_file_in_a_form_that_is_not_read_is_unsupported_and_a_damaged_one_corrupt():
    data = bytearray(encoded(scene(16, 16), "BMP"))
    data[30:34] = (4).to_bytes(4, "little")  # BI_JPEG
    with pytest.raises(PixelError) as failure:
        picture(bytes(data), "bmp")
    assert failure.value.reason == "unsupported image"
    damaged = encoded(scene(16, 16), "PNG").replace(b"IDAT", b"IDAX")
    with pytest.raises(PixelError) as failure:
        picture(damaged, "png")
    assert failure.value.reason in ("corrupt image", "truncated")


def test_the_bytes_tell_the_kind_and_not_the_name():
    data = encoded(scene(), "PNG")
    assert np.array_equal(picture(data, "jpg"), picture(data, "png"))
    assert np.array_equal(picture(data, "dcm"), picture(data, "png"))


@pytest.mark.parametrize(
    ("fit", "box"), [("crop", (0, 224, 0, 224)), ("squash", (0, 224, 0, 224)), ("pad", (56, 168, 0, 224))]
)
def test_fit_decides_what_of_a_wide_picture_is_seen(fit, box):
    wide = np.full((200, 400, 3), 200, np.uint8)
    wide[:, :60] = (255, 0, 0)  # lost by a crop, kept by the others
    found = picture(encoded(wide, "PNG"), fit=fit)
    top, bottom, left, right = box
    assert found[top:bottom, left:right].min(axis=-1).max() == 200
    outside = np.ones((224, 224), bool)
    outside[top:bottom, left:right] = False
    assert (found[outside] == 0).all()
    assert bool((found[112] == (255, 0, 0)).all(-1).any()) == (fit != "crop")


def test_pixels_that_are_not_square_are_shown_in_their_true_shape():
    tall = np.zeros((50, 200), np.uint8)
    tall[:, 90:110] = 255
    square = picture(dicom(tall, PixelSpacing=[4, 1]), size=200, resize=200, fit="pad")
    assert (square[..., 0].max(axis=1) == 255).all()  # 50 rows of 4 mm are as high as 200 columns of 1 mm are wide


def test_a_strip_one_pixel_high_does_not_become_gigapixels():
    assert (picture(encoded(np.full((1, 60_000, 3), 9, np.uint8), "PNG")) == 9).all()
    assert (picture(encoded(np.full((60_000, 1, 3), 9, np.uint8), "PNG")) == 9).all()


def test_all_threads_see_the_same_pixels():
    kinds = [encoded(scene(700, 900), "JPEG"), encoded(deep(), "PNG"), tiff(deep(), compression="zlib"), dicom(deep())]
    alone = [picture(data) for data in kinds]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(picture, kinds * 16))
    assert all(np.array_equal(found, alone[n % len(kinds)]) for n, found in enumerate(together))


@pytest.mark.parametrize("preset", CT_PRESETS)
def test_a_preset_is_its_centre_and_width(preset):
    centre, width = CT_PRESETS[preset]
    assert parse_window(preset)[0].window == parse_window(f"{centre},{width}")[0].window


@pytest.mark.parametrize("text", ["", "lnug", "1", "1,2,3", "10,0", "10,0.5", "nan,10", "lung;bone", "a;b;c", "1e3,5"])
def test_a_window_outside_the_documented_forms_is_an_error(text):
    with pytest.raises(WindowError):
        parse_window(text)
    with pytest.raises(WindowError):
        list(decode(encoded(scene(), "PNG"), "png", PixelSpec(8, 8, window=text)))


def test_nifti_slices_stand_as_a_radiologist_sees_them():
    nibabel = pytest.importorskip("nibabel")
    # axes of this volume go to the left, to the back and to the head; voxels are 1 x 1 x 2 mm
    volume = np.zeros((30, 40, 20), np.int16)
    volume[25:, :, :] = 500  # far along the first axis: the patient's left
    volume[:, :8, :] += 250  # near on the second: the front
    volume[:, :, 15:] += 125  # far on the third: the head
    image = nibabel.Nifti1Image(volume, np.diag([-1.0, -1.0, 2.0, 1.0]))
    data = image.to_bytes()

    def seen(plane, frames):
        spec = PixelSpec(40, 40, fit="pad", window="minmax", plane=plane)
        (found,) = decode(data, "nii", spec, frames=frames)
        return found.pixels[..., 0].astype(float)

    axial = seen("axial", "middle")
    assert axial[:, 5:10].mean() < axial[:, 30:34].mean()  # patient's left on the right of the picture
    assert axial[:6, 8:25].mean() > axial[-6:, 8:25].mean()  # front above
    coronal = seen("coronal", "middle")
    assert coronal[:8, 8:25].mean() > coronal[-8:, 8:25].mean()  # head above, and 20 slices of 2 mm are 40 rows
    sagittal = seen("sagittal", "middle")
    assert sagittal[20:, :6].mean() > sagittal[20:, -6:].mean()  # front to the left
    assert len(list(decode(data, "nii", PixelSpec(40, 40, plane="coronal")))) == 40
    assert len(list(decode(data, "nii", PixelSpec(40, 40)))) == 20


@pytest.mark.case("P5")
def test_a_gzipped_nifti_is_the_same_volume():
    nibabel = pytest.importorskip("nibabel")
    import gzip

    data = nibabel.Nifti1Image(deep(30, 30).astype(np.float32)[..., None], np.eye(4)).to_bytes()
    truth = picture(data, "nii")
    assert np.array_equal(truth, picture(gzip.compress(data), "nii.gz"))
    several = gzip.compress(data[:1000]) + gzip.compress(b"") + gzip.compress(data[1000:])
    assert np.array_equal(truth, picture(several, "nii.gz"))
    assert np.array_equal(truth, picture(several + b"\0" * 512, "nii.gz"))
    with pytest.raises(PixelError, match="truncated"):
        picture(several[:-20], "nii.gz")
