"""Small files whose headers announce far more than they hold, made when they are needed."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from indexer.doctor.specimens import SYNTAXES, dicom

MIB = bytes(1 << 20)


def png_bomb(side: int) -> bytes:
    """Black RGB: about 1/1000 of its pixels' bytes."""
    row = b"\0" * (1 + 3 * side)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (
            (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", body), (b"IEND", b""),
        )
    )  # fmt: skip


def behind_a_chunk(png: bytes) -> bytes:
    """A PNG whose first chunk is another one, of eight bytes that look like the header's size of 1 × 1."""
    content = b"gAMA" + struct.pack(">II", 1, 1)
    return png[:8] + struct.pack(">I", 8) + content + struct.pack(">I", zlib.crc32(content)) + png[8:]


def gif_bomb(side: int) -> bytes:
    """A screen and one image of side², with a handful of pixels."""
    screen = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    image = (
        b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x16" + b"\x8c\x2d\x99\x87\x2a\x1c\xdc" * 3 + b"\5"
    )
    return screen + image + b"\0;"


def deflated(start: bytes, zeros: int) -> bytes:
    """A raw deflate stream of `start` and so many zeros. Each MiB of them is the same block, packed once: after a full
    flush a block refers to nothing before it (RFC 1951).
    """
    packer = zlib.compressobj(9, wbits=-15)
    head = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * (zeros >> 20) + packer.compress(bytes(zeros & (1 << 20) - 1)) + packer.flush()


def nifti_bomb(shape: tuple[int, int, int], voxels: int) -> bytes:
    """A .nii.gz that announces this shape and holds so many bytes of zeros."""
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.uint8)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    start = header.binaryblock + bytes(4)
    crc = zlib.crc32(start)
    for at in range(0, voxels, 1 << 20):
        crc = zlib.crc32(memoryview(MIB)[: voxels - at], crc)
    trailer = struct.pack("<II", crc, (len(start) + voxels) & 0xFFFFFFFF)
    return b"\x1f\x8b\x08" + bytes(6) + b"\xff" + deflated(start, voxels) + trailer  # RFC 1952


def deflated_bomb(nbytes: int) -> bytes:
    """A deflated DICOM file whose data set unpacks to that much."""
    data = dicom(next(syntax for syntax in SYNTAXES if syntax.uid.endswith(".1.99")))
    start = 132 + 12 + int.from_bytes(data[140:144], "little")
    head = zlib.decompress(data[start:], -15) + b"\xfc\xff\xfc\xffOB\0\0" + struct.pack("<I", nbytes)
    return data[:start] + deflated(head, nbytes >> 20 << 20)


def many_scans(side: int) -> bytes:
    """A grey progressive JPEG of side² in 883 scans, each legal and each over all blocks: minutes of work in 200 kB."""
    file = io.BytesIO()
    Image.new("L", (16, 16)).save(file, "JPEG")
    plain = file.getvalue()
    quantisation = plain[plain.index(b"\xff\xdb") :][:69]
    blocks = (-(-side // 8)) ** 2
    # One code of one bit for each table: category 0 in the DC table, an end-of-band run of 2^14 blocks in the AC table
    tables = b"".join(
        b"\xff\xc4" + struct.pack(">HB", 20, number) + bytes([1] + [0] * 15) + bytes([symbol])
        for number, symbol in ((0x00, 0x00), (0x10, 0xE0))
    )
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, side, side, 1) + b"\1\x11\0"
    scans = [_scan(0, 0, 0, 0, "0" * blocks)]
    runs, rest = divmod(blocks, 1 << 14)
    runs += bool(rest)
    bits = ("0" + "0" * 14) * runs
    scans += [_scan(band, band, (low + 1) % 14, low, bits) for band in range(1, 64) for low in range(13, -1, -1)]
    return b"\xff\xd8" + quantisation + frame + tables + b"".join(scans) + b"\xff\xd9"


def _scan(first: int, last: int, high: int, low: int, bits: str) -> bytes:
    head = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, first, last, high << 4 | low)
    bits += "1" * (-len(bits) % 8)
    return head + int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
