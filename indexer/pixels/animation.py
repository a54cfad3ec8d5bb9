"""Start times of the frames of GIF, APNG and WebP animations, read from the headers only."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_GIF_EXTENSION, _GIF_IMAGE, _GIF_CONTROL = 0x21, 0x2C, 0xF9


def start_seconds(kind: str, data: bytes) -> dict[int, float]:
    """Frame → seconds from the start of the animation; incomplete for a damaged file, {} for other kinds."""
    durations = {"gif": _gif, "png": _apng, "webp": _webp}.get(kind)
    starts: dict[int, float] = {}
    if durations is not None:
        total = 0.0
        for frame, seconds in durations(data):
            starts[frame] = round(total, 6)
            total += seconds
    return starts


def _gif(data: bytes) -> Iterator[tuple[int, float]]:
    """GIF89a sections 20 and 23: the graphic control extension before an image gives its delay in 1/100 s."""
    at, frame, delay = 13 + _gif_colours(data, 10), 0, 0
    while at + 1 < len(data):
        if data[at] == _GIF_EXTENSION:
            if data[at + 1] == _GIF_CONTROL and at + 6 <= len(data):
                delay = int.from_bytes(data[at + 4 : at + 6], "little")
            at = _after_blocks(data, at + 2)
        elif data[at] == _GIF_IMAGE:
            yield frame, delay / 100
            frame, delay = frame + 1, 0
            at = _after_blocks(data, at + 11 + _gif_colours(data, at + 9))  # one byte of LZW code size before the data
        else:
            return


def _gif_colours(data: bytes, at: int) -> int:
    """Bytes of the colour table declared by the flags at `at`."""
    flags = data[at] if at < len(data) else 0
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += data[at] + 1
    return at + 1


def _apng(data: bytes) -> Iterator[tuple[int, float]]:
    """PNG third edition, 11.3.6.2: fcTL holds the delay as a fraction of a second; a denominator of 0 means 100."""
    at, frame, controls = 8, 0, False
    while at + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        if name == b"IDAT" and not controls:
            frame, controls = 1, True  # Pillow counts a default image outside the animation as frame 0
        if name == b"fcTL" and at + 34 <= len(data):
            delay, parts = struct.unpack(">HH", data[at + 28 : at + 32])
            yield frame, delay / (parts or 100)
            frame, controls = frame + 1, True
        at += length + 12


def _webp(data: bytes) -> Iterator[tuple[int, float]]:
    """WebP container, "Animation": ANMF holds the duration in ms as 24 bits."""
    at, frame = 12, 0
    while at + 8 <= len(data):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name == b"ANMF" and at + 23 <= len(data):
            yield frame, int.from_bytes(data[at + 20 : at + 23], "little") / 1000
            frame += 1
        at += 8 + length + length % 2
