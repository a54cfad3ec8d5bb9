"""Small files that announce gigabytes or hours: the process keeps its memory, and ends an image's work in time."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.encaps import encapsulate

from indexer.doctor import specimens
from indexer.errors import PixelError
from indexer.pixels import decode
from indexer.pixels.announced import announced_bytes
from indexer.pixels.jpeg.cpu import plain_size
from indexer.pixels.limits import PLAIN_BYTES
from indexer.pixels.pillow import PillowReader
from indexer.types import PixelSpec
from tests.bombs import gif_bomb, many_scans, nifti_bomb
from tests.pictures import encoded, scene

pytestmark = pytest.mark.case("X7")
ROOT = Path(__file__).parents[2]
SPEC = PixelSpec(32, 32)

CHILD = """
import json, sys
from indexer.errors import PixelError
from indexer.pixels import decode
from indexer.types import PixelSpec
from tests import bombs
from tests.memory import most_resident
from tests.pictures import encoded, scene

spec, before, said = PixelSpec(32, 32), 0, {}
plain = {"png": encoded(scene(), "PNG"), "gif": encoded(scene(), "GIF"), "dcm": bombs.dicom(bombs.SYNTAXES[1])}
for suffix, data in plain.items():
    list(decode(data, suffix, spec))
list(decode(bombs.nifti_bomb((20, 20, 3), 1200), "nii.gz", spec))
before = most_resident()
for name, suffix, data in eval(sys.argv[1]):
    try:
        said[name] = len(list(decode(data, suffix, spec, frames="first")))
    except PixelError as error:
        said[name] = error.reason
print(json.dumps({"grown": most_resident() - before >> 20, "said": said}))
"""


def decoded_in_a_child(bombs: str) -> dict:
    """What became of these bombs, and by how many MiB the process grew at its peak."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, bombs], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_images_that_announce_much_are_decoded_outside_this_process():
    found = decoded_in_a_child(
        "[('gif', 'gif', bombs.gif_bomb(14000)), ('png', 'png', bombs.png_bomb(6000)), "
        "('volume', 'nii.gz', bombs.nifti_bomb((30000, 30000, 1), 1000))]"
    )
    assert found["said"] | {"gif": "", "volume": ""} == {"gif": "", "png": 1, "volume": ""}
    assert {found["said"]["gif"], found["said"]["volume"]} <= {"truncated", "too many pixels", "corrupt image"}
    assert found["grown"] < 300  # MiB; the pixels of the PNG alone are 103


def test_images_that_are_larger_than_their_headers_seem_to_say_are_decoded_outside_this_process():
    found = decoded_in_a_child(
        "[('png', 'png', bombs.behind_a_chunk(bombs.png_bomb(12000))), "
        "('gif', 'gif', bombs.gif_bomb(12000).replace((12000).to_bytes(2, 'little') * 2, b'\\1\\0\\1\\0', 1))]"
    )
    assert found["said"]["png"] == 1
    assert found["said"]["gif"] in ("truncated", "corrupt image", 1)
    assert found["grown"] < 700  # MiB: the pixels of the PNG are 412, and in this process it took 4,000


def test_a_file_whose_header_shows_no_size_is_decoded_outside_this_process(monkeypatch):
    plain = encoded(scene(20, 30), "PPM")
    (wanted,) = decode(plain, "ppm", SPEC)
    monkeypatch.setattr(PillowReader, "rasters", None)
    (found,) = decode(plain.replace(b"P6\n", b"P6\n#" + b" " * 300 + b"\n", 1), "ppm", SPEC)
    assert found.pixels.tobytes() == wanted.pixels.tobytes()


def test_a_frame_that_enlarges_a_gif_many_times_is_refused():
    frames = [Image.fromarray(scene(8, 8)), Image.fromarray(255 - scene(8, 8))]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], disposal=0)
    data = file.getvalue()
    second = data.rindex(b"\x2c\0\0\0\0")
    data = data[: second + 5] + struct.pack("<HH", 10_000, 10_000) + data[second + 9 :]
    with pytest.raises(PixelError, match="frame 2 is far larger than its header announces"):
        list(decode(data, "gif", SPEC))


@pytest.mark.slow
def test_bombs_of_full_size_stay_below_the_memory_of_one_large_image():
    found = decoded_in_a_child(
        "[('png', 'png', bombs.png_bomb(14000)), ('deflated', 'dcm', bombs.deflated_bomb(4095 << 20)), "
        "('nifti', 'nii.gz', bombs.nifti_bomb((2000, 2000, 200), 3 << 30))]"
    )
    assert found["said"]["png"] in (1, "decoder took too long", "too little memory")
    assert isinstance(found["said"]["deflated"], str)
    assert isinstance(found["said"]["nifti"], (int, str))
    assert found["grown"] < 1200


@pytest.mark.slow
def test_compressed_volumes_are_unpacked_outside_this_process():
    found = decoded_in_a_child(
        "[('nifti', 'nii.gz', bombs.nifti_bomb((512, 512, 100), 512 * 512 * 100)), "
        "('deflated', 'dcm', bombs.deflated_bomb(256 << 20))]"
    )
    assert found["said"] == {"nifti": 1, "deflated": 1}
    assert found["grown"] < 300


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("gif", lambda: gif_bomb(7000)),
        ("png", lambda: encoded(scene(8, 8), "PNG").replace(b"\0\0\0\x08\0\0\0\x08", b"\0\0\x20\0\0\0\x20\0", 1)),
        ("bmp", lambda: encoded(scene(8, 8), "BMP").replace(b"\x08\0\0\0\x08\0\0\0", b"\0\x20\0\0\0\x20\0\0", 1)),
        ("pnm", lambda: b"P6\n# large\n8000 8000\n255\n"),
        ("webp", lambda: encoded(scene(8, 8), "WEBP", lossless=True)[:21] + (8191 | 8191 << 14).to_bytes(4, "little")),
        ("jpeg", lambda: many_scans(2000)),
        ("nifti", lambda: nifti_bomb((2000, 2000, 20), 9)),
    ],
)
def test_what_a_header_announces_is_known_before_a_decoder_is_called(kind, make):
    assert announced_bytes(kind, make()) > PLAIN_BYTES


@given(
    st.lists(st.sampled_from([b"\xff\xda", b"\xff", b"\xda", b"\0", b"\xff\xff\xda\xda"]), max_size=60).map(b"".join)
)
def test_a_jpegs_scans_are_counted_at_odd_and_even_places(data):
    head = b"\xff\xd8\xff\xc0\0\x0b\x08\0\x40\0\x20\x01\x01\x11\0"  # 64 × 32 pixels
    assert announced_bytes("jpeg", head + data) == 64 * 32 * max(4, data.count(b"\xff\xda"))


def test_a_plain_picture_of_any_kind_announces_little():
    for name, kind in (
        ("PNG", "png"),
        ("GIF", "gif"),
        ("BMP", "bmp"),
        ("PPM", "pnm"),
        ("WEBP", "webp"),
        ("JPEG", "jpeg"),
    ):
        assert 0 < announced_bytes(kind, encoded(scene(600, 800), name)) < PLAIN_BYTES
        assert announced_bytes(kind, b"") == 0
    assert 0 < announced_bytes("jpeg", encoded(scene(3000, 4000), "JPEG", progressive=True)) < PLAIN_BYTES


def test_a_jpeg_of_hundreds_of_scans_is_ended_in_time_and_not_by_this_process(monkeypatch):
    list(decode(encoded(scene(), "TIFF"), "tif", SPEC))  # a decoder process is there
    monkeypatch.setattr("indexer.pixels.isolated.CPU_SECONDS", 1)
    monkeypatch.setattr("indexer.pixels.isolated.ANNOUNCED_BYTES_PER_SECOND", 1e12)
    data = many_scans(8000)
    assert len(data) < 1_000_000
    started = time.process_time()
    with pytest.raises(PixelError, match="decoder took too long"):
        list(decode(data, "jpg", SPEC))
    assert time.process_time() - started < 1


def test_no_gpu_is_given_a_jpeg_of_hundreds_of_scans():
    assert plain_size(many_scans(4000)) is None
    assert plain_size(encoded(scene(3000, 4000), "JPEG", progressive=True)) == (3000, 4000)


def test_a_large_jpeg_in_a_child_process_has_the_pixels_of_this_one(monkeypatch):
    for options in ({}, {"progressive": True}):
        data = encoded(scene(1200, 1600), "JPEG", **options)
        (here,) = decode(data, "jpg", SPEC)
        with monkeypatch.context() as patch:
            patch.setattr("indexer.pixels.kinds.PLAIN_BYTES", 1000)
            (there,) = decode(data, "jpg", SPEC)
        assert there.pixels.tobytes() == here.pixels.tobytes()


def test_the_time_of_a_frame_without_offset_table_does_not_grow_with_the_frames():
    def seconds(count: int) -> float:
        dataset = pydicom.dcmread(
            io.BytesIO(specimens.dicom(next(s for s in specimens.SYNTAXES if s.stream == "jpeg")))
        )
        dataset.NumberOfFrames = count
        dataset.PixelData = encapsulate([specimens.stream("jpeg")] * count, has_bot=False)
        file = io.BytesIO()
        dataset.save_as(file)
        started = time.process_time()
        assert sum(1 for _ in decode(file.getvalue(), "dcm", PixelSpec(8, 8))) == count
        return time.process_time() - started

    seconds(10)
    assert seconds(3000) < 12 * seconds(500)  # 36 times as much where it is quadratic
