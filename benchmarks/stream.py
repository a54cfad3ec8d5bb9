"""A shard of tiny numbered pictures on stdout: `python stream.py FIRST COUNT`. No import but sys: it starts at once."""

from __future__ import annotations

import sys

SIDE = 16
BLOCK = 512


def shard(first: int, count: int) -> None:
    out = sys.stdout.buffer
    for number in range(first, first + count):
        name = f"{number:09d}"
        pixels = (number.to_bytes(4, "little") * (3 * SIDE * SIDE // 4))[: 3 * SIDE * SIDE]
        out.write(member(f"{name}.ppm", b"P6 %d %d 255\n" % (SIDE, SIDE) + pixels))
        out.write(member(f"{name}.json", b'{"n": %d, "site": "s%02d"}' % (number, number % 50)))
    out.write(bytes(2 * BLOCK))


def member(name: str, data: bytes) -> bytes:
    """A ustar header (POSIX 1003.1) and the data, padded to whole blocks."""
    fields = b"%s%s0000644\0000000000\0000000000\0%011o\000%011o\0" % (
        name.encode(), bytes(100 - len(name)), len(data), 0,
    )  # fmt: skip
    head, tail = fields, b"0" + bytes(100) + b"ustar\00000" + bytes(BLOCK - 265)
    checksum = sum(head) + 8 * 32 + sum(tail)
    return head + b"%06o\0 " % checksum + tail + data + bytes(-len(data) % BLOCK)


if __name__ == "__main__":
    shard(int(sys.argv[1]), int(sys.argv[2]))
