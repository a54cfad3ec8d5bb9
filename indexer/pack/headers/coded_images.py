"""Removes comments and metadata from the coded images of encapsulated pixel data; the coded image itself stays.

Cameras, ultrasound machines and converters write EXIF, XMP, comments and thumbnails with names and dates into JPEG,
JPEG-LS and JPEG 2000 streams, where no DICOM program shows them. What a decoder needs is kept: the parts of JFIF's,
Adobe's and HP's segments that say how colours were transformed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from indexer.pixels.dicom.stored import RUN_LENGTH, UNCOMPRESSED

_CLASSIC = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81))  # JPEG and JPEG-LS
_WAVELET = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 92, 93, 201, 202, 203))  # JPEG 2000 and HTJ2K
_SOI, _EOI, _SOS = b"\xff\xd8", b"\xff\xd9", 0xDA
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length
_METADATA = frozenset({*range(0xE0, 0xF7), *range(0xF9, 0xFF)})  # APPn, COM and reserved ones; F7 and F8 are JPEG-LS's
_KEPT = {0xE8: (b"mrfx", 5), 0xEE: (b"Adobe", 12)}  # APPn → how it begins, and the bytes that decoders read
_JFIF = b"JFIF\0"
_AFTER_SCAN = re.compile(rb"\xff(?=[\x80-\xcf\xd8-\xfe])")  # in coded data 0xFF is followed by less, or by a restart
_SOC, _SOT, _SOD, _COM, _TLM = b"\xff\x4f", b"\xff\x90", b"\xff\x93", b"\xff\x64", b"\xff\x55"
_JP2 = b"\0\0\0\x0cjP  "
_BOXES = (b"jP  ", b"ftyp", b"jp2h", b"jp2c")
_HEADER_BOXES = (b"ihdr", b"bpcc", b"colr", b"pclr", b"cmap", b"cdef")
_ITEM = b"\xfe\xff\x00\xe0"
_MOST = 0xFFFFFFFF  # of an item, and of an offset in the basic table


@dataclass(frozen=True)
class Encapsulated:
    """The value of encapsulated pixel data, and of the extended offset table beside it, if any."""

    value: bytes
    offsets: bytes = b""  # of 8 bytes each
    lengths: bytes = b""


def stripped(pixels: Encapsulated, syntax: str, frames: int) -> Encapsulated:
    """The same frames without metadata, each in one fragment; `pixels` itself where there is nothing to remove.

    Raises ValueError where the frames or their segments cannot be told apart.
    """
    from pydicom.encaps import generate_fragmented_frames

    if syntax == RUN_LENGTH:
        return pixels
    if syntax in UNCOMPRESSED:
        raise ValueError("encapsulated pixel data of an uncompressed transfer syntax")
    if syntax not in (*_CLASSIC, *_WAVELET):
        raise ValueError(f"pixel data of {syntax} cannot be searched for metadata")
    strip = _classic if syntax in _CLASSIC else _wavelet
    extended = (pixels.offsets, pixels.lengths) if pixels.offsets else None
    found = generate_fragmented_frames(pixels.value, number_of_frames=max(frames, 1), extended_offsets=extended)
    before = [b"".join(fragments) for fragments in found]
    after = [strip(frame) for frame in before]
    if all(old in (new, new + b"\0", new + b"\xff") for old, new in zip(before, after, strict=True)):
        return pixels
    return _encapsulated(after, pixels)


def _encapsulated(frames: list[bytes], old: Encapsulated) -> Encapsulated:
    """PS3.5 annex A.4: an offset table, then one item for each frame."""
    offsets, at, items = [], 0, []
    for frame in frames:
        padded = frame + b"\0" * (len(frame) % 2)
        if len(padded) >= _MOST:
            raise ValueError("a frame too long for one fragment")
        offsets.append(at)
        items.append(_ITEM + len(padded).to_bytes(4, "little") + padded)
        at += len(items[-1])
    basic = b""
    if old.value[4:8] != bytes(4) and offsets[-1] < _MOST:
        basic = b"".join(offset.to_bytes(4, "little") for offset in offsets)
    value = _ITEM + len(basic).to_bytes(4, "little") + basic + b"".join(items)
    if not old.offsets:
        return Encapsulated(value)
    lengths = (len(frame) + len(frame) % 2 for frame in frames)
    return Encapsulated(
        value,
        b"".join(offset.to_bytes(8, "little") for offset in offsets),
        b"".join(nbytes.to_bytes(8, "little") for nbytes in lengths),
    )


def _classic(frame: bytes) -> bytes:
    """A JPEG (ISO/IEC 10918-1 annex B) or JPEG-LS stream up to its end marker, or to its end where it is cut."""
    if frame[:2] != _SOI:
        raise ValueError("a frame that does not begin as JPEG does")
    out, at = [_SOI], 2
    while at < len(frame):
        if frame[at] != 0xFF:
            raise ValueError("a JPEG stream without a marker where one must be")
        while frame[at + 1 : at + 2] == b"\xff":  # any number of these may stand before a marker
            at += 1
        marker = frame[at + 1] if at + 1 < len(frame) else 0xD9
        if marker == _EOI[1]:
            out.append(frame[at : at + 2])
            break
        if marker in _ALONE:
            out.append(frame[at : at + 2])
            at += 2
            continue
        end = at + 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
        if not at + 4 <= end <= len(frame):
            raise ValueError("a JPEG stream that ends inside a segment")
        out.append(_segment(marker, frame[at:end]))
        at = end
        if marker == _SOS:
            found = _AFTER_SCAN.search(frame, at)
            end = found.start() if found else len(frame)
            out.append(frame[at:end])
            at = end
    return b"".join(out)


def _segment(marker: int, segment: bytes) -> bytes:
    """A segment, with its metadata left out."""
    payload = segment[4:]
    if marker == 0xE0 and payload.startswith(_JFIF) and len(payload) >= 14:
        return segment[:2] + b"\0\x10" + payload[:12] + b"\0\0"  # without a thumbnail
    start, nbytes = _KEPT.get(marker, (b"", 0))
    if nbytes and payload.startswith(start) and len(payload) >= nbytes:
        return segment[:2] + (nbytes + 2).to_bytes(2, "big") + payload[:nbytes]
    return b"" if marker in _METADATA else segment


def _wavelet(frame: bytes) -> bytes:
    """A JPEG 2000 codestream (ISO/IEC 15444-1 annex A), alone, as DICOM wants it, or in a JP2 file (annex I)."""
    if frame.startswith(_SOC):
        return _codestream(frame)
    if not frame.startswith(_JP2):
        raise ValueError("a frame that does not begin as JPEG 2000 does")
    out = []
    for kind, box in _boxes(frame):
        if kind == b"jp2c":
            out.append(_box(kind, _codestream(box)))
        elif kind == b"jp2h":
            inner = [(name, content) for name, content in _boxes(box) if name in _HEADER_BOXES]
            samples = next((int.from_bytes(content[8:10], "big") for name, content in inner if name == b"ihdr"), 0)
            plain = b"\1\0\0\0\0\0" + (b"\x10" if samples >= 3 else b"\x11")  # sRGB or grey, for a colour profile,
            colours = (plain if name == b"colr" and content[:1] != b"\1" else content for name, content in inner)
            # which may hold text and which no decoder of DICOM applies
            out.append(_box(kind, b"".join(map(_box, (name for name, _ in inner), colours))))
        elif kind in _BOXES:
            out.append(_box(kind, box))
    return b"".join(out)


def _boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """(type, content) of the boxes. A single zero that pads a fragment is none."""
    found, at = [], 0
    while len(data) - at >= 8:
        nbytes, kind, start = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], at + 8
        if nbytes == 1:
            nbytes, start = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        end = len(data) if nbytes == 0 else at + nbytes
        if not start <= end <= len(data):
            raise ValueError("a JPEG 2000 file whose boxes do not fit")
        found.append((kind, data[start:end]))
        at = end
    return found


def _box(kind: bytes, content: bytes) -> bytes:
    return (len(content) + 8).to_bytes(4, "big") + kind + content


def _codestream(data: bytes) -> bytes:
    main, at, _ = _header(data, 2, _SOT)
    parts, shortened = [], False
    while data[at : at + 2] == _SOT:
        nbytes = int.from_bytes(data[at + 6 : at + 10], "big")
        head, start, removed = _header(data, at + 12, _SOD)
        end = at + nbytes if nbytes else max(data.find(_EOI, start), 0) or len(data)
        if len(data) < at + 12 or end < start:
            raise ValueError("a JPEG 2000 tile whose length is wrong")
        size = (nbytes - removed if nbytes else 0).to_bytes(4, "big")
        parts += [data[at : at + 6], size, data[at + 10 : at + 12], *head, data[start:end]]
        shortened, at = shortened or removed > 0, end
    if at < len(data) and data[at : at + 2] != _EOI:
        raise ValueError("a JPEG 2000 codestream without a marker where one must be")
    kept = [segment for segment in main if not (shortened and segment.startswith(_TLM))]  # it holds the tiles' lengths
    return b"".join([data[:2], *kept, *parts, data[at : at + 2]])


def _header(data: bytes, at: int, last: bytes) -> tuple[list[bytes], int, int]:
    """The segments up to the marker `last` without comments, where it is, and the bytes left out."""
    segments, removed = [], 0
    while (marker := data[at : at + 2]) != last:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker[:1] != b"\xff" or not at + 4 <= end <= len(data):
            raise ValueError("a JPEG 2000 codestream whose header does not end")
        if marker == _COM:
            removed += end - at
        else:
            segments.append(data[at:end])
        at = end
    return segments, at, removed
