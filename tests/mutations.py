"""Seeded damage to image files: bit flips, cuts, spliced headers. The same seed gives the same bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence


def mutated(files: Sequence[bytes], count: int, seed: int) -> Iterator[tuple[int, bytes]]:
    """`count` damaged copies, each with its number."""
    for number in range(count):
        rng = random.Random(f"{seed}-{number}")
        data = bytearray(rng.choice(files))
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            rng.choice((_flip, _flip, _noise, _cut, _splice, _delete, _repeat))(data, files, rng)
        yield number, bytes(data)


def _at(data: bytearray, rng: random.Random) -> int:
    """A place in the file; half the time in its first kilobyte, where the header is."""
    end = min(len(data), 1024) if rng.random() < 0.5 else len(data)
    return rng.randrange(max(1, end))


def _flip(data: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    for _number in range(rng.choice((1, 3, 30))):
        if data:
            data[_at(data, rng)] ^= 1 << rng.randrange(8)


def _noise(data: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    at = _at(data, rng)
    length = rng.choice((1, 2, 4, 64))
    data[at : at + length] = rng.choice((rng.randbytes(length), b"\xff" * length, b"\0" * length))


def _cut(data: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    del data[_at(data, rng) :]


def _splice(data: bytearray, files: Sequence[bytes], rng: random.Random) -> None:
    other = rng.choice(files)
    at = _at(data, rng)
    data[:at] = other[: _at(bytearray(other), rng)]


def _delete(data: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    at = _at(data, rng)
    del data[at : at + rng.choice((1, 2, 16, 512))]


def _repeat(data: bytearray, _: Sequence[bytes], rng: random.Random) -> None:
    at = _at(data, rng)
    data[at:at] = data[at : at + rng.choice((1, 8, 256))]
