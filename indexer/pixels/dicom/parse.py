"""Parses DICOM files, deflated ones within a limit: pydicom inflates a data set of any size into memory."""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import Any, BinaryIO

from indexer.errors import PixelError
from indexer.pixels.sniff import PREAMBLE

DEFLATED = "1.2.840.10008.1.2.1.99"
_DEFLATED, _PLAIN = DEFLATED.encode(), b"1.2.840.10008.1.2.1\0\0\0"  # of equal length, so that no length changes
_META = b"\x02\x00"  # group 0002, always explicit VR little endian (PS3.10 section 7.1)
_LONG = (b"OB", b"UN", b"SQ", b"UT", b"OW", b"UC", b"UR")  # VRs with a length of 4 bytes
_HEAD = 1 << 16  # the meta information lies in these first bytes


def is_deflated(data: bytes) -> bool:
    """Whether the meta information names the deflated transfer syntax."""
    return _end_of_meta(data[:_HEAD]) > 0


def parsed(file: BinaryIO, *, limit: int, **options: Any) -> Any:
    """`pydicom.dcmread(file, force=True, **options)`; of a deflated file at most `limit` bytes are inflated.

    Raises PixelError for a larger one, unless `stop_before_pixels` is given; then the header must lie in them.
    """
    import pydicom

    head = file.read(_HEAD)
    end = _end_of_meta(head)
    if not end:
        file.seek(0)
        return pydicom.dcmread(file, force=True, **options)
    unpacker = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    body = unpacker.decompress(head[end:] + file.read(), limit)
    if not unpacker.eof and not options.get("stop_before_pixels"):
        if len(body) >= limit:
            raise PixelError("file too large", f"DICOM: over {limit:,} bytes unpacked")
        raise PixelError("truncated", "DICOM: the deflated data set is truncated")
    dataset = pydicom.dcmread(BytesIO(head[:end].replace(_DEFLATED, _PLAIN) + body), force=True, **options)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(DEFLATED)
    return dataset


def _end_of_meta(head: bytes) -> int:
    """Where a deflated file's meta information ends; 0 where it does not name the deflated transfer syntax."""
    if _DEFLATED not in head:
        return 0
    at = PREAMBLE + 4 if head[PREAMBLE : PREAMBLE + 4] == b"DICM" else 0
    deflated = False
    while head[at : at + 2] == _META and at + 12 <= len(head):
        long = head[at + 4 : at + 6] in _LONG
        start = at + (12 if long else 8)
        nbytes = int.from_bytes(head[at + 8 : at + 12] if long else head[at + 6 : at + 8], "little")
        if head[at + 2 : at + 4] == b"\x10\x00":  # (0002,0010) Transfer Syntax UID
            deflated = head[start : start + nbytes].rstrip(b"\0 ") == _DEFLATED
        at = start + nbytes
    return at if deflated and at <= len(head) else 0
