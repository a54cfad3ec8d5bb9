"""An encoder that another process of this machine owns: pictures go there, and vectors come back, by shared memory.
Where a GPU decodes, JPEG files go there and pictures come back: the owner alone uses the GPU, of whose memory each
further process would take half a gigabyte.

Each thread that calls has a seat of its own: memory for one batch, and a socket over which the two sides take turns.
"""

from __future__ import annotations

import mmap
import os
import queue
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

from indexer.errors import EncoderError
from indexer.pixels.jpeg.cpu import plain_sizes
from indexer.types import Encoder, EncoderSpec, Float32, UInt8


@dataclass(frozen=True)
class Terms:
    """What both sides know of the encoder, and how many seats there are."""

    spec: EncoderSpec
    batch_size: int
    device: str
    seats: int

    @property
    def picture_bytes(self) -> int:
        return self.batch_size * self.spec.pixels.size**2 * 3

    @property
    def nbytes(self) -> int:
        """Of the shared memory."""
        return self.seats * (self.picture_bytes + self.batch_size * self.spec.dim * 4)


class SharedBatches:
    """Memory for a batch of each seat, in a file that has no name."""

    def __init__(self, terms: Terms, descriptor: int) -> None:
        size, seats = terms.spec.pixels.size, terms.seats
        self._memory = mmap.mmap(descriptor, terms.nbytes)
        shape = (seats, terms.batch_size, size, size, 3)
        self.pictures: UInt8 = np.frombuffer(self._memory, np.uint8, seats * terms.picture_bytes).reshape(shape)
        vectors = np.frombuffer(self._memory, np.float32, offset=seats * terms.picture_bytes)
        self.vectors: Float32 = vectors.reshape(seats, terms.batch_size, terms.spec.dim)


def shared_file(nbytes: int) -> int:
    """The descriptor of a file in memory, or of a temporary one where the system has none. Raises OSError."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("indexer-batches")
    else:
        descriptor, path = tempfile.mkstemp(prefix="indexer-batches-")
        os.unlink(path)  # noqa: PTH108 - of a descriptor
    os.ftruncate(descriptor, nbytes)
    return descriptor


class Seats:
    """The seats of the process that borrows."""

    def __init__(self, batches: SharedBatches, seats: list[Connection]) -> None:
        self._batches = batches
        self._free: queue.SimpleQueue[tuple[int, Connection]] = queue.SimpleQueue()
        for seat in enumerate(seats):
            self._free.put(seat)

    @contextmanager
    def taken(self) -> Iterator[Seat]:
        """One of them, once it is free."""
        number, connection = self._free.get()
        try:
            yield Seat(self._batches.pictures[number], self._batches.vectors[number], connection)
        finally:
            self._free.put((number, connection))


@dataclass(frozen=True)
class Seat:
    """Memory for a batch, and the way to the owner."""

    pictures: UInt8  # (batch size, size, size, 3)
    vectors: Float32  # (batch size, dim)
    connection: Connection

    def ask(self, what: Any) -> Any:
        """The owner's answer. Raises the error that it is, EncoderError where there is no owner any more."""
        try:
            self.connection.send(what)
            answer = self.connection.recv()
        except (EOFError, OSError) as error:
            raise EncoderError("the process that owns the encoder is gone.") from error
        if isinstance(answer, Exception):
            raise answer
        return answer


class LentEncoder:
    """Implements `types.Encoder` in the process that borrows."""

    def __init__(self, terms: Terms, seats: Seats) -> None:
        self.spec, self.batch_size, self.device, self.workers = terms.spec, terms.batch_size, terms.device, terms.seats
        self._seats = seats

    def embed(self, pictures: UInt8) -> Float32:
        """(n, size, size, 3) → (n, dim), n at most the batch size. Raises what the owner's encoder raised."""
        n = len(pictures)
        with self._seats.taken() as seat:
            seat.pictures[:n] = pictures
            seat.ask(n)
            return seat.vectors[:n].copy()


Plain = tuple[int, tuple[int, int]]  # the index of an image, its height and width


class LentDecoder:
    """Implements `pipeline.worker.Decoder` in the process that borrows: the owner's GPU decodes plain JPEG files."""

    difference: float | None = None  # the owner has it

    def __init__(self, terms: Terms, seats: Seats) -> None:
        self.at_once = terms.batch_size
        self._room, self._seats = terms.picture_bytes, seats

    def squares(self, images: Sequence[bytes]) -> list[UInt8 | None]:
        """Pixels (size, size, 3) of each image that a GPU decoded, None for the others."""
        found: list[UInt8 | None] = [None] * len(images)
        plain = list(plain_sizes(images).items())
        while plain:
            plain = self._first(images, plain, found)
        return found

    def _first(self, images: Sequence[bytes], plain: list[Plain], found: list[UInt8 | None]) -> list[Plain]:
        """Have as many decoded as have room; gives those that are left. One without room even alone is passed over."""
        with self._seats.taken() as seat:
            memory, used, asked = seat.pictures.reshape(-1), 0, list[tuple[int, int, int]]()
            for i, size in plain:
                stop = used + len(images[i])
                if len(asked) == self.at_once or stop > self._room:
                    break
                memory[used:stop] = np.frombuffer(images[i], np.uint8)
                asked.append((len(images[i]), *size))
                used = stop
            if asked:
                for place, (i, _) in zip(seat.ask(asked), plain, strict=False):
                    found[i] = None if place is None else seat.pictures[place].copy()
            return plain[max(len(asked), 1) :]


def serve(encoder: Encoder, decoder: Any, batches: SharedBatches, number: int, seat: Connection) -> None:
    """Embed and decode what comes from one seat, until its other end is closed."""
    with suppress(EOFError, OSError), seat:
        while True:
            asked = seat.recv()
            try:
                if isinstance(asked, int):
                    batches.vectors[number, :asked] = encoder.embed(batches.pictures[number, :asked])
                    answer: Any = None
                else:
                    answer = _decoded(decoder, batches.pictures[number], asked)
            except Exception as error:  # noqa: BLE001 - raised again by the borrower
                answer = portable(error)
            seat.send(answer)


def portable(error: BaseException) -> BaseException:
    """The error, or its words where another process could not make it again."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))  # as a connection does it
    except Exception:  # noqa: BLE001 - whatever its class does
        return EncoderError(f"{type(error).__name__}: {error}")
    return error


def _decoded(decoder: Any, pictures: UInt8, asked: list[tuple[int, int, int]]) -> list[int | None]:
    """Put the squares of JPEG files in the place of the files; where each is, None for those that were not decoded."""
    import torch

    memory, start, files = torch.from_numpy(pictures.reshape(-1)), 0, []
    for nbytes, *_ in asked:
        files.append(memory[start : start + nbytes])
        start += nbytes
    squares = decoder.squares_of(files, {i: (height, width) for i, (_, height, width) in enumerate(asked)})
    for i, square in enumerate(squares):  # all are decoded: the files are not needed any more
        if square is not None:
            pictures[i] = square
    return [None if square is None else i for i, square in enumerate(squares)]
