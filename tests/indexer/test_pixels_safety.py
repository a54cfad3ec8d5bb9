"""Damaged, hostile and oversized files: each is a named failure, and the process lives on."""

from __future__ import annotations

import gzip
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter

import numpy as np
import psutil
import pytest
from PIL import Image

from indexer.errors import PixelError
from indexer.isolation.process import ChildProcess
from indexer.pixels import decode, open_image
from indexer.pixels.limits import MAX_PIXELS
from indexer.types import PixelSpec
from tests.mutations import mutated
from tests.pictures import damaged_pages, deep, dicom, dicom_file, encoded, scene, tiff

SPEC = PixelSpec(32, 32)
HANG_SECONDS = 5
SELECTED = 120  # of 2,000 damaged files of each kind; the rest is `make test-slow`'s
WHOLE = 2000


def nifti() -> bytes:
    import nibabel

    return nibabel.Nifti1Image(deep(24, 20).astype(np.int16)[..., None].repeat(5, 2), np.diag([1, 1, 2, 1])).to_bytes()


def kinds() -> dict[str, tuple[str, list[bytes]]]:
    colour, grey = scene(48, 64), deep(40, 50)
    pages = np.stack([grey] * 3)
    image = Image.fromarray(colour)
    jpeg = dicom_file("SC_rgb_jpeg_dcmtk.dcm"), dicom_file("SC_rgb_jpeg_gdcm.dcm")
    lossless = [f.replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.70") for f in jpeg]
    return {
        "jpeg": ("jpg", [encoded(colour, "JPEG"), encoded(colour, "JPEG", progressive=True),
                         encoded(colour[..., 0], "JPEG"), encoded(image.convert("CMYK"), "JPEG")]),
        "png": ("png", [encoded(colour, "PNG"), encoded(grey, "PNG"), encoded(image.quantize(16), "PNG"),
                        encoded(image.convert("RGBA"), "PNG")]),
        "tiff": ("tif", [tiff(colour), tiff(grey), tiff(pages, photometric="minisblack"), tiff(grey.astype("f4")),
                         tiff(grey, compression="zlib"), encoded(colour, "TIFF", compression="tiff_lzw"),
                         encoded(image.convert("1"), "TIFF", compression="group4")]),
        "webp": ("webp", [encoded(colour, "WEBP"), encoded(colour, "WEBP", lossless=True)]),
        "bmp": ("bmp", [encoded(colour, "BMP"), encoded(image.quantize(16), "BMP")]),
        "gif": ("gif", [encoded(image.quantize(16), "GIF")]),
        "pnm": ("ppm", [encoded(colour, "PPM"), encoded(grey, "PPM")]),
        "dicom": ("dcm", [dicom_file(n) for n in ("CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm",
                                                  "MR_small_padded.dcm", "SC_ybr_full_422_uncompressed.dcm")]),
        "compressed dicom": ("dcm", [*jpeg, *lossless, *(dicom_file(n) for n in (
            "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "JPGExtended.dcm",
            "image_dfl.dcm"))]),
        "nifti": ("nii.gz", [nifti(), gzip.compress(nifti(), mtime=0)]),
    }  # fmt: skip


def survive(kind: str, count: int) -> None:
    """Decode `count` damaged files: every one is pictures or a PixelError, none takes long."""
    suffix, files = kinds()[kind]
    list(decode(files[0], suffix, SPEC))  # libraries are loaded, and the clock is for the damage alone
    outcomes: Counter[str] = Counter()
    for number, data in mutated(files, count, seed=7):
        started = time.process_time()
        try:
            shapes = {picture.pixels.shape for picture in decode(data, suffix, SPEC)}
            assert shapes == {(32, 32, 3)}, number
            outcomes["pictures"] += 1
        except PixelError as error:
            outcomes[error.reason] += 1
        assert time.process_time() - started < HANG_SECONDS, number
    assert sum(outcomes.values()) == count
    assert len(outcomes) > 2, outcomes  # the damage is neither always fatal at once nor never


@pytest.mark.parametrize("kind", kinds())
def test_damaged_files_become_pictures_or_named_failures(kind):
    survive(kind, SELECTED)


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds())
def test_two_thousand_damaged_files_of_each_kind(kind):
    survive(kind, WHOLE)


@pytest.mark.parametrize("kind", kinds())
def test_a_file_cut_anywhere_never_raises_another_exception(kind):
    suffix, files = kinds()[kind]
    for data in files[:2]:
        for share in (0, 0.01, 0.1, 0.5, 0.9, 0.999):
            try:
                found = list(decode(data[: int(len(data) * share)], suffix, SPEC))
            except PixelError:
                continue
            assert len(found) >= 1


def test_a_decoder_that_crashes_its_process_costs_that_image_only():
    broken = [f.replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4." + syntax)
              for f in map(dicom_file, ("SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_small_odd_jpeg.dcm"))
              for syntax in (b"57", b"70", b"51")]  # fmt: skip
    aborting = dict(mutated(broken, 102, seed=3))[101]  # GDCM 3.2.6 calls abort() on it
    with pytest.raises(PixelError):
        list(decode(aborting, "dcm", SPEC))
    assert len(list(decode(dicom_file("MR_small_jpeg_ls_lossless.dcm"), "dcm", SPEC))) == 1


def forty_pages() -> bytes:
    return tiff(np.stack([deep(400, 400, seed=n) for n in range(40)]), photometric="minisblack")


def decoders() -> list[psutil.Process]:
    """The decoder processes of this one, idle and busy."""
    return [c for c in psutil.Process().children() if c.is_running() and "indexer.pixels.worker" in _command(c)]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # or a zombie
        return []


def test_a_decoder_that_is_killed_is_named_and_replaced():
    pictures = decode(forty_pages(), "tif", SPEC)
    next(pictures)
    for child in decoders():
        os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(PixelError, match="decoder crashed: SIGKILL"):
        list(pictures)
    assert len(list(decode(forty_pages(), "tif", SPEC))) == 40


def test_signals_that_a_scheduler_sends_to_every_process_cost_no_image(monkeypatch):
    for child in decoders():
        os.kill(child.pid, signal.SIGKILL)
    psutil.wait_procs(decoders(), timeout=10)
    start, told = subprocess.Popen, []

    def told_at_once(*given, **named):
        process = start(*given, **named)
        told.extend(process.send_signal(number) for number in (signal.SIGTERM, signal.SIGINT))
        return process

    monkeypatch.setattr(subprocess, "Popen", told_at_once)
    pictures = decode(forty_pages(), "tif", SPEC)
    next(pictures)
    assert told
    for child in decoders():
        child.send_signal(signal.SIGTERM)
    assert len(list(pictures)) == 39


@pytest.mark.parametrize("number", range(10))
def test_a_decoder_that_is_killed_while_idle_costs_no_image(number):
    data = forty_pages()
    with open_image(data, "tif", SPEC), open_image(data, "tif", SPEC):
        pass  # two processes lie idle now
    for child in decoders():
        os.kill(child.pid, signal.SIGKILL)  # returns before the process is gone
    if number % 2:
        psutil.wait_procs(decoders(), timeout=0.001 * number)
    assert len(list(decode(data, "tif", SPEC))) == 40


def test_parts_of_one_file_are_decoded_in_any_order_by_one_process_that_gets_the_file_once(monkeypatch):
    data = forty_pages()
    every = [picture.pixels for picture in decode(data, "tif", SPEC)]
    sent: list[int] = []
    monkeypatch.setattr(ChildProcess, "send", lambda self, facts, file=b"", send=ChildProcess.send: (
        sent.append(len(file)), send(self, facts, file))[-1])  # fmt: skip
    with open_image(data, "tif", SPEC) as image:
        parts = image.parts()
        for at in (39, 0, 7, 7):
            assert np.array_equal(image.pixels(parts[at]).pixels, every[at])
        several = image.pictures([parts[3], parts[2]])
        assert all(np.array_equal(found.pixels, every[at]) for found, at in zip(several, (3, 2), strict=True))
    assert [n for n in sent if n] == [len(data)]


def test_after_a_damaged_part_the_others_can_still_be_decoded():
    data = damaged_pages(4, damaged=2)
    with open_image(data, "tif", SPEC) as image:
        parts = image.parts()
        for _ in range(2):
            with pytest.raises(PixelError):
                image.pixels(parts[2])
            assert image.pixels(parts[3]).pixels.shape == (32, 32, 3)


def test_a_decoder_that_never_ends_is_stopped_by_its_cpu_limit(monkeypatch):
    monkeypatch.setattr("indexer.pixels.isolated.CPU_SECONDS", 1)
    monkeypatch.setattr("indexer.pixels.isolated.CPU_SECONDS_PER_MB", 0)
    # a directory of 300,000 pages, each naming the same one tiny strip
    page = struct.pack("<H" + "HHII" * 7, 7, 256, 4, 1, 1, 257, 4, 1, 1, 258, 3, 1, 8, 259, 3, 1, 1, 262, 3, 1, 1,
                       273, 4, 1, 8, 279, 4, 1, 1)  # fmt: skip
    length = len(page) + 4
    chain = b"".join(page + struct.pack("<I", 12 + (n + 1) * length) for n in range(300_000))
    data = b"II*\0" + struct.pack("<I", 12) + b"\x80\0\0\0" + chain
    with pytest.raises(PixelError, match="decoder took too long"):
        list(decode(data, "tif", SPEC))


def png_of(width: int, height: int, pixels: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    data = bytearray(encoded(scene(16, 16)[..., 0], "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.case("X7")
@pytest.mark.parametrize(
    "data",
    [
        png_of(30_000, 30_000),
        jpeg_of(60_000, 60_000),
        dicom(deep(16, 16)).replace(b"\x28\0\x10\0US\x02\0\x10\0\x28\0\x11\0US\x02\0\x10\0",
                                    b"\x28\0\x10\0US\x02\0\xff\xff\x28\0\x11\0US\x02\0\xff\xff"),
        b"P5\n40000 40000\n255\n" + b"\0" * 100,
        b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0" + b"," + struct.pack("<HHHH", 0, 0, 65535, 65535)
        + b"\0\x02\x01\x00\x00;",
    ],
    ids=["png", "jpeg", "dicom", "pgm", "gif"],
)  # fmt: skip
def test_a_decompression_bomb_is_refused_by_its_header(data):
    with pytest.raises(PixelError) as failure:
        list(decode(data, "", SPEC))
    assert failure.value.reason == "too many pixels"


def test_the_pixel_limit_is_two_hundred_million():
    assert MAX_PIXELS == 200_000_000


@pytest.mark.case("X7")
def test_a_gzip_bomb_of_a_volume_is_refused(monkeypatch):
    monkeypatch.setattr("indexer.pixels.volumes.nifti.PLAIN_BYTES", 1 << 20)
    with pytest.raises(PixelError, match="file too large"):
        list(decode(gzip.compress(b"\0" * (4 << 20)), "nii.gz", SPEC))


def test_a_file_over_the_size_limit_is_refused(monkeypatch):
    monkeypatch.setattr("indexer.pixels.limits.MAX_IMAGE", 100)
    with pytest.raises(PixelError, match="file too large"):
        list(decode(encoded(scene(), "PNG"), "png", SPEC))


@pytest.mark.case("X7")
def test_a_dicom_that_announces_billions_of_frames_is_refused():
    with pytest.raises(PixelError):
        list(decode(dicom(deep(16, 16)[None], NumberOfFrames=2_000_000_000), "dcm", SPEC))


def test_an_empty_file_is_named_so():
    with pytest.raises(PixelError, match="empty file"):
        list(decode(b"", "png", SPEC))


DECODE_ALL = """
import pathlib, sys
from indexer.errors import PixelError
from indexer.pixels import decode, open_image
from indexer.types import PixelSpec
for path in map(pathlib.Path, sys.argv[1:]):
    try:
        list(decode(path.read_bytes(), path.name.partition(".")[2], PixelSpec(16, 16)))
    except PixelError:
        pass
"""


def test_decoders_print_nothing_on_the_users_screen(tmp_path):
    files = []
    for kind, (suffix, originals) in kinds().items():
        for number, data in mutated(originals, 25, seed=11):
            path = tmp_path / f"{kind}-{number}.{suffix}"
            path.write_bytes(data)
            files.append(path)
    done = subprocess.run([sys.executable, "-c", DECODE_ALL, *files], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
