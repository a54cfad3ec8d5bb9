"""An encoder that another process of this machine owns: pictures go there, and vectors come back, by shared memory.

Each thread that calls has a seat of its own: memory for one batch, and a socket over which the two sides take turns.
"""

from __future__ import annotations

import mmap
import os
import queue
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np

from indexer.errors import EncoderError
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


class LentEncoder:
    """Implements `types.Encoder` in the process that borrows."""

    def __init__(self, terms: Terms, batches: SharedBatches, seats: list[Connection]) -> None:
        self.spec, self.batch_size, self.device, self.workers = terms.spec, terms.batch_size, terms.device, terms.seats
        self._batches = batches
        self._free: queue.SimpleQueue[tuple[int, Connection]] = queue.SimpleQueue()
        for seat in enumerate(seats):
            self._free.put(seat)

    def embed(self, pictures: UInt8) -> Float32:
        """(n, size, size, 3) → (n, dim), n at most the batch size. Raises what the owner's encoder raised."""
        if len(pictures) > self.batch_size:
            raise ValueError(f"{len(pictures)} pictures in a batch of {self.batch_size}")
        number, seat = self._free.get()
        try:
            self._batches.pictures[number, : len(pictures)] = pictures
            seat.send(len(pictures))
            answer = seat.recv()
        except (EOFError, OSError) as error:
            raise EncoderError("the process that owns the encoder is gone.") from error
        finally:
            self._free.put((number, seat))
        if isinstance(answer, Exception):
            raise answer
        return self._batches.vectors[number, : len(pictures)].copy()


def serve(encoder: Encoder, batches: SharedBatches, number: int, seat: Connection) -> None:
    """Embed what comes from one seat, until its other end is closed."""
    with suppress(EOFError, OSError), seat:
        while True:
            n = seat.recv()
            try:
                batches.vectors[number, :n] = encoder.embed(batches.pictures[number, :n])
            except Exception as error:  # noqa: BLE001 - raised again by the borrower
                seat.send(error)
            else:
                seat.send(None)
