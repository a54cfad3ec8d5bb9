"""Runs batches on accelerators through a fixed pool of slots, each used by one caller at a time.

A slot is the host and device memory of one batch, so the pool bounds memory; a slot returns to the pool only when the
device has finished with it. Device calls are behind the protocol `Lane`, so the tests of this module need no GPU.
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

BATCH_BYTES = 40 << 20  # of uint8 pixels, 256 pictures of 224 × 224; larger batches gain little, each worker holds one
SLOTS = 2  # per device: one is filled while the other is computed


class Slot(Protocol):
    """Host and device memory of one batch."""

    host: UInt8  # (capacity, size, size, 3), filled by the caller


SlotT = TypeVar("SlotT", bound=Slot)


class Lane(Protocol[SlotT]):
    """One device with a copy of the weights."""

    device: str

    @property
    def busy_seconds(self) -> float:
        """For which the device has computed."""
        ...

    def slot(self, capacity: int) -> SlotT: ...

    def run(self, slot: SlotT, batch: int) -> Float32:
        """Vectors (batch, dim) of the slot's first `batch` pictures; returns when the device is done with them.

        Raises torch.OutOfMemoryError.
        """
        ...

    def release(self) -> None:
        """Return cached memory to the device after an OutOfMemoryError."""
        ...


def largest_batch(size: int) -> int:
    """The largest power of two whose pictures (size, size, 3) fit into BATCH_BYTES; at least 1."""
    return 1 << max((BATCH_BYTES // (size * size * 3)).bit_length() - 1, 0)


class SlottedBackend(Generic[SlotT]):
    """Implements `encoder.Backend` on one or several devices, whose slots all calling threads share."""

    def __init__(self, lanes: Sequence[Lane[SlotT]], *, dim: int, largest: int) -> None:
        self._dim = dim
        self._lock = threading.Lock()
        self._lanes = lanes
        self.device = ",".join(lane.device for lane in lanes)
        # one batch size for all devices, so that a vector's bits do not depend on which one was free
        self.batch_size = min(self._probe(lane, largest) for lane in lanes)
        self._compute = {lane.device: self.batch_size for lane in lanes}
        self.workers = cores() + SLOTS * len(lanes)  # a worker that waits for a device does not use its core
        self._free: queue.SimpleQueue[tuple[Lane[SlotT], SlotT]] = queue.SimpleQueue()
        for _ in range(SLOTS):
            for lane in lanes:
                self._free.put((lane, lane.slot(self.batch_size)))

    @property
    def busy_seconds(self) -> float:
        """For which the devices have computed, added."""
        return sum(lane.busy_seconds for lane in self._lanes)

    def embed(self, pictures: UInt8) -> Float32:
        """(n, size, size, 3) → (n, dim). Every batch on a device has the full size; the last is padded with zeros."""
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
        """Vectors of at most `batch_size` pictures, in smaller batches once this device has run out of memory."""
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
        with self._lock:  # two callers that ran out of memory at the same size halve it once
            self._compute[lane.device] = min(self._compute[lane.device], batch // 2)

    def _probe(self, lane: Lane[SlotT], largest: int) -> int:
        """The first of `largest`, its half, its quarter, … at which a batch runs without running out of memory."""
        batch = largest
        while batch:
            if _attempt(lane, None, batch) is not None:
                return batch
            lane.release()
            batch //= 2
        raise _no_memory(lane)


def _attempt(lane: Lane[SlotT], slot: SlotT | None, batch: int) -> Float32 | None:
    """Vectors of a batch, or None where memory ran out. Allocates a slot where none is given.

    Catching the error here drops its frames, which hold tensors, before the caller calls `release`.
    """
    try:
        return lane.run(lane.slot(batch) if slot is None else slot, batch)
    except torch.OutOfMemoryError:
        return None


def _no_memory(lane: Lane[SlotT]) -> EncoderError:
    return EncoderError(f"{lane.device} lacks the memory for one picture. Use a smaller encoder, or --device cpu.")
