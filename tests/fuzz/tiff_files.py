"""TIFF files of every kind, whole and damaged, and what tifffile with imagecodecs reads in them."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image
from tifffile import TiffFile, TiffPage

from indexer.errors import PixelError
from indexer.pixels.decoder_errors import DECODER_ERRORS, quiet
from indexer.pixels.kinds import open_kind
from indexer.pixels.parts import Rendering
from tests.fuzz.verdict import Wrong, agree, from_ycbcr
from tests.mutations import mutated
from tests.tiffs import COMPRESSIONS, tiff_of

TYPES = ("u1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "f2", "f4", "f8")
LOSSY = (6, 7, 50001)  # JPEG, WebP: decoders differ by a level or two
FAX = (2, 3, 4)
RENDERING = Rendering(window="minmax")
WHITE, BLACK, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6


def tiff_files(count: int, seed: int) -> Iterator[bytes]:
    """Half of them whole; of the others half have damaged fields and half damaged bytes."""
    for number in range(count):
        rng = random.Random(f"tiff-{seed}-{number}")
        data = rng.choice(WRITERS)(rng, np.random.default_rng(rng.randrange(2**32)))
        act = rng.random()
        if act > 0.75:
            _, data = next(iter(mutated([data], 1, rng.randrange(2**32))))
        elif act > 0.5:
            data = _field_changed(data, rng)
        yield data


def _shape(rng: random.Random) -> tuple[int, int]:
    return rng.choice((1, 5, 16, 21, 33)), rng.choice((1, 7, 16, 24, 40))


def _values(numbers: np.random.Generator, shape: tuple[int, ...], kind: str, bits: int = 0) -> np.ndarray:
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        return numbers.normal(0, 300, shape).astype(dtype)
    top = 2**bits if bits else int(np.iinfo(dtype).max) + 1
    low = 0 if bits else int(np.iinfo(dtype).min)
    return numbers.integers(low, top, shape, dtype=np.uint64 if kind == "u8" else np.int64).astype(dtype)


def _by_hand(rng: random.Random, numbers: np.random.Generator) -> bytes:
    """Field by field, as TIFF 6.0 has it."""
    photometric = rng.choice((WHITE, BLACK, BLACK, RGB, PALETTE, CMYK, YCBCR, 8, 4))
    kind = "u1" if photometric in (PALETTE, CMYK, YCBCR) else rng.choice(TYPES)
    bits = rng.choice((1, 2, 4)) if photometric == PALETTE else rng.choice((0, 0, 0, 1, 3, 4, 10, 12, 14))
    bits = bits if kind in ("u1", "u2") and bits <= 8 * np.dtype(kind).itemsize else 0
    colours = {RGB: 3, CMYK: 4, YCBCR: 3}.get(photometric, 1)
    extra = rng.choice((0, 0, 0, 1)) if photometric != PALETTE else 0
    tags = {338: (rng.choice((0, 1, 2)),)} if extra else {}
    if photometric == PALETTE:
        factor = rng.choice((1, 256, 257))
        tags[320] = tuple(int(v) * factor for v in numbers.integers(0, 256, 3 * 2 ** (bits or 8)))
    if photometric == YCBCR:
        tags[530] = (1, 1)
    orientation = rng.choice((None, None, 1, 2, 3, 5, 6, 8))
    if orientation:
        tags[274] = (orientation,)
    return tiff_of(
        _values(numbers, (*_shape(rng), colours + extra), kind, bits),
        photometric,
        order=rng.choice("<>"),
        compression=rng.choice(list(COMPRESSIONS)),
        predictor=rng.choice((1, 1, 3 if kind[0] == "f" else 2)) if not bits else 1,
        planar=rng.choice((1, 1, 2)),
        tile=rng.choice((0, 0, 16, 32)),
        bits=bits or None,
        fill_order=rng.choice((1, 1, 1, 2)),
        rows=rng.choice((1, 3, 5, 64)),
        tags=tags,
    )


def _by_tifffile(rng: random.Random, numbers: np.random.Generator) -> bytes:
    """Pages, BigTIFF, tiles, codecs and stacks as tifffile writes them."""
    colour = rng.random() < 0.4
    kind = rng.choice(("u1", "u1", "u2", "f4", "i2", "u4"))
    codec = rng.choice((None, "lzw", "zlib", "zstd", "lzma", "packbits", "jpeg", "webp", "jpegxl", "lerc"))
    if codec == "lerc":
        kind, colour = "f4", False
    if codec in ("jpeg", "webp", "jpegxl"):
        kind = "u1"
        colour = colour or codec == "webp"
    pages = rng.choice((1, 1, 1, 2, 4))
    shape = ((pages,) if pages > 1 else ()) + _shape(rng) + ((3,) if colour else ())
    options: dict[str, Any] = {"photometric": "rgb" if colour else rng.choice(("minisblack", "miniswhite"))}
    if codec in ("jpeg", "webp"):
        options["photometric"] = "rgb" if colour else "minisblack"
    if codec:
        options["compression"] = codec
        options["predictor"] = codec in ("lzw", "zlib", "zstd", "lzma") and rng.random() < 0.5
    if rng.random() < 0.3 and codec != "lerc":
        options["tile"] = (16, 16)
    else:
        options["rowsperstrip"] = rng.choice((1, 4, 64))
    if rng.random() < 0.3:
        options["metadata"] = None
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        _values(numbers, shape, kind),
        bigtiff=rng.random() < 0.3,
        byteorder="<" if codec == "lerc" else rng.choice("<>"),  # whose encoder takes no other
        **options,
    )
    return file.getvalue()


def _by_pillow(rng: random.Random, numbers: np.random.Generator) -> bytes:
    """Modes and codecs as libtiff writes them."""
    mode = rng.choice(("1", "L", "P", "RGB", "RGBA", "CMYK", "LA", "I;16", "I", "F"))
    codecs = ["raw", "tiff_lzw", "packbits"]
    codecs += ["group3", "group4"] if mode == "1" else ["tiff_adobe_deflate"]
    codec = rng.choice([*codecs, "jpeg"] if mode in ("L", "RGB") else codecs)
    h, w = _shape(rng)
    if mode in ("I;16", "I", "F"):
        image = Image.fromarray(_values(numbers, (h, w), {"I;16": "u2", "I": "i4", "F": "f4"}[mode]))
    else:
        image = Image.fromarray(_values(numbers, (h, w, 4), "u1"), "RGBA").convert("RGB").convert(mode)
    file = io.BytesIO()
    image.save(file, "TIFF", compression=codec)
    return file.getvalue()


WRITERS: tuple[Callable[[random.Random, np.random.Generator], bytes], ...] = (
    _by_hand, _by_hand, _by_hand, _by_tifffile, _by_tifffile, _by_pillow,
)  # fmt: skip


def _field_changed(data: bytes, rng: random.Random) -> bytes:
    """One or two fields of the first directory say something else."""
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    if data[2:4] not in (b"*\0", b"\0*"):
        return data[: rng.randrange(len(data))]  # BigTIFF: cut
    file = bytearray(data)
    (at,) = struct.unpack_from(f"{order}I", file, 4)
    (fields,) = struct.unpack_from(f"{order}H", file, at)
    for _ in range(rng.choice((1, 1, 2))):
        entry = at + 2 + 12 * rng.randrange(fields)
        value = rng.choice((0, 1, 2, 3, 4, 5, 7, 8, 16, 32, 255, 2**16 - 1, 2**31, 2**32 - 1, rng.randrange(2**20)))
        act = rng.random()
        if act < 0.6:  # the value
            kind = struct.unpack_from(f"{order}H", file, entry + 2)[0]
            struct.pack_into(
                f"{order}{'I' if kind == 4 else 'H'}", file, entry + 8, value if kind == 4 else value & 0xFFFF
            )
        elif act < 0.8:  # the number of values
            struct.pack_into(f"{order}I", file, entry + 4, value)
        elif act < 0.9:  # the type
            struct.pack_into(f"{order}H", file, entry + 2, rng.choice((1, 2, 3, 4, 5, 8, 11, 12, 16, 99)))
        else:  # the tag
            struct.pack_into(f"{order}H", file, entry, rng.choice((254, 255, 266, 274, 317, 330, 338, 339, 700, 32997)))
    return bytes(file)


def tiff_attack(folder: Path) -> Callable[[list[bytes]], list[str]]:
    del folder
    quiet()
    return lambda batch: [_compared(data) for data in batch]


def _compared(data: bytes) -> str:
    """What became of the file; raises Wrong where a picture without a flag is not what the other reader sees."""
    try:
        reader = open_kind("tiff", data, RENDERING)
    except PixelError as error:
        return error.reason
    try:
        parts = list(reader.parts)[:6]
        for position, part in enumerate(parts):
            (raster,) = reader.rasters([position])
            if any("reduced" not in flag and "constant" not in flag for flag in raster.flags):
                return "flagged"
            truth = tiff_truth(data, int(part.facts.get("page", 0)), int(part.facts.get("plane", 0)))
            if truth is None:
                return "not read by the other"
            expected, tolerance = truth
            if not agree(raster.pixels, expected, tolerance):
                raise Wrong(f"part {part.name!r} of {len(parts)}: {raster.pixels.shape} is not {expected.shape}")
    except PixelError as error:
        return error.reason
    finally:
        reader.close()
    return "equal"


def tiff_truth(data: bytes, index: int, plane: int) -> tuple[np.ndarray, float] | None:
    """The page as tifffile reads it and TIFF 6.0 shows it, in floating point 0..255, and how far off one may be."""
    try:
        with TiffFile(io.BytesIO(data)) as file:
            page = file.pages[index]
            if file.series[0].is_truncated:
                values = file.series[0].asarray()[plane]
            else:
                values = page.asarray(squeeze=False)[0 if page.planarconfig != 2 else slice(None)]
            if int(page.compression) in FAX:  # without checksums damage shows in another way to each decoder
                other = imagecodecs.tiff_decode(data, index=index)
                if other.size != np.size(values) or not np.array_equal(other.ravel() > 0, np.ravel(values) > 0):
                    return None
            return _shown(np.asarray(values), page), 3.0 if int(page.compression) in LOSSY else 1.0
    except (*DECODER_ERRORS, tifffile.TiffFileError, imagecodecs.TiffError):
        return None


def _shown(values: np.ndarray, page: TiffPage) -> np.ndarray:
    samples = int(page.samplesperpixel)
    h, w = int(page.imagelength), int(page.imagewidth)
    if page.planarconfig == 2 and samples > 1:
        values = np.moveaxis(values.reshape(samples, h, w), 0, -1)
    values = values.reshape(h, w, samples)
    photometric, bits = int(page.photometric), page.bitspersample
    colours = {RGB: 3, CMYK: 4, YCBCR: 3}.get(photometric, 1)
    ycbcr_as_rgb = photometric == YCBCR and int(page.compression) in LOSSY  # the codec converts
    real = values[..., :colours].astype(np.float64)
    if photometric == PALETTE:
        table = np.asarray(page.colormap, np.float64)
        table = np.floor(table / 256) if table.max() > 255 else table
        out = np.moveaxis(table[:, values[..., 0].astype(int)], 0, -1)
    elif values.dtype == np.uint8 or values.dtype == bool:
        out = np.rint(real * 255 / (2**bits - 1))
    else:
        finite = real[np.isfinite(real)]
        low, high = (finite.min(), finite.max()) if finite.size else (0, 0)
        real = np.where(np.isfinite(real), real, np.nan)
        out = (real - low) / (high - low) * 255 if high > low else np.full(real.shape, 128.0)
        out = np.where(np.isfinite(real), np.clip(out, 0, 255), np.nan)
    if photometric == WHITE and not (values.dtype != np.uint8 and values.dtype != bool and np.ptp(out) == 0):
        out = 255 - out
    out = np.nan_to_num(out)  # what is no number is black
    if photometric == CMYK:
        out = (255 - out[..., :3]) * (255 - out[..., 3:]) / 255
    if photometric == YCBCR and not ycbcr_as_rgb:
        out = np.clip(from_ycbcr(out), 0, 255)
    if samples > colours and page.extrasamples and int(page.extrasamples[0]) == 2:
        alpha = values[..., colours].astype(np.float64)
        top = (
            1.0
            if values.dtype.kind == "f"
            else 2**bits - 1
            if bits <= 16 and values.dtype.kind == "u"
            else np.iinfo(values.dtype).max
        )
        out = out * np.nan_to_num(np.clip(alpha / top, 0, 1))[..., None]
    return _oriented(out, page)


def _oriented(out: np.ndarray, page: TiffPage) -> np.ndarray:
    tag = page.tags.get(274)
    turn = int(tag.value) if tag else 1
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a[::-1].swapaxes(0, 1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: a[:, ::-1].swapaxes(0, 1),
    }  # fmt: skip
    return turns[turn](out) if turn in turns else out
