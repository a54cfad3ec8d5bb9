"""Batches on devices beside the CPU: a fixed set of slots, each owned by one caller at a time.

A slot is a batch's way to a device and back: memory is bounded by the slots, and a slot is given on only when the
device is done with it. What a slot does on its device is behind `Lane`, so this logic runs without a GPU too.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch

from indexer.cores import cores
from indexer.errors import EncoderError
from indexer.types import Float32, UInt8

BATCH_BYTES = 40 << 20  # of pictures: 256 of 224 pixels; larger ones gain little, and each worker holds one
SLOTS = 2  # a device: one is copied to while the other computes


class Slot(Protocol):
    """Memory for one batch, on the host and on its device."""

    host: UInt8  # (capacity, size, size, 3): what the caller fills


SlotT = TypeVar("SlotT", bound=Slot)


class Lane(Protocol[SlotT]):
    """One device with its own copy of the weights."""

    device: str

    def slot(self, capacity: int) -> SlotT: ...

    def run(self, slot: SlotT, batch: int) -> Float32:
        """Vectors (batch, dim) of the slot's first `batch` pictures; returns when the device is done with the slot.

        Raises torch.OutOfMemoryError.
        """
        ...

    def release(self) -> None:
        """Give cached memory back after an OutOfMemoryError."""
        ...


def largest_batch(size: int) -> int:
    """The power of two of pictures (size, size, 3) that fits BATCH_BYTES, at least 1."""
    return 1 << max((BATCH_BYTES // (size * size * 3)).bit_length() - 1, 0)


class SlottedBackend(Generic[SlotT]):
    """Embeds on one or several devices; callers in many threads share their slots."""

    def __init__(self, lanes: Sequence[Lane[SlotT]], *, dim: int, largest: int) -> None:
        self._dim = dim
        self._lock = threading.Lock()
        self.device = ",".join(lane.device for lane in lanes)
        # one size for all, so that a vector's bits do not depend on which device was free
        self.batch_size = min(self._probe(lane, largest) for lane in lanes)
        self._compute = {lane.device: self.batch_size for lane in lanes}
        self.workers = cores() + SLOTS * len(lanes)  # those that wait for a device leave their core to the others
        self._free: queue.SimpleQueue[tuple[Lane[SlotT], SlotT]] = queue.SimpleQueue()
        for _ in range(SLOTS):
            for lane in lanes:
                self._free.put((lane, lane.slot(self.batch_size)))

    def embed(self, pictures: UInt8) -> Float32:
        """(n, size, size, 3) → (n, dim). Every batch on the device has the full size; a short one is padded."""
        vectors = np.empty((len(pictures), self._dim), np.float32)
        for start in range(0, len(pictures), self.batch_size):
            part = pictures[start : start + self.batch_size]
            lane, slot = self._free.get()
            try:
                vectors[start : start + len(part)] = self._through(lane, slot, part)
            finally:
                self._free.put((lane, slot))
        return vectors

    def _through(self, lane: Lane[SlotT], slot: SlotT, part: UInt8) -> Float32:
        """A part of at most `batch_size` pictures; in smaller pieces once this device has run out of memory."""
        rows: list[Float32] = []
        done = 0
        while done < len(part):
            batch = self._compute[lane.device]
            piece = part[done : done + batch]
            slot.host[: len(piece)] = piece
            slot.host[len(piece) : batch] = 0
            vectors = _attempt(lane, slot, batch)
            if vectors is None:
                self._halve(lane, batch)
            else:
                rows.append(vectors[: len(piece)])
                done += len(piece)
        return np.concatenate(rows)

    def _halve(self, lane: Lane[SlotT], batch: int) -> None:
        lane.release()
        if batch == 1:
            raise _no_memory(lane)
        with self._lock:  # two callers may have run out at one size: that halves it once
            self._compute[lane.device] = min(self._compute[lane.device], batch // 2)

    def _probe(self, lane: Lane[SlotT], largest: int) -> int:
        """The largest power-of-two fraction of `largest` that runs, found by running it."""
        batch = largest
        while batch:
            if _attempt(lane, None, batch) is not None:
                return batch
            lane.release()
            batch //= 2
        raise _no_memory(lane)


def _attempt(lane: Lane[SlotT], slot: SlotT | None, batch: int) -> Float32 | None:
    """The vectors, or None where memory ran out; then the error, whose frames hold tensors, is gone before `release`.

    Without a slot also that of a new one.
    """
    try:
        return lane.run(lane.slot(batch) if slot is None else slot, batch)
    except torch.OutOfMemoryError:
        return None


def _no_memory(lane: Lane[SlotT]) -> EncoderError:
    return EncoderError(f"{lane.device} has no memory for one picture. Use a smaller encoder, or --device cpu.")
