"""The GPU path's bookkeeping, on pretended devices: padding, memory, and who owns a slot when."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from indexer.encoders.backends.slots import SLOTS, SlottedBackend, largest_batch
from indexer.errors import EncoderError

SIZE, DIM = 4, 3


class PretendedLane:
    """Its vectors are the pictures' channel sums. Runs out of memory above `fits` pictures."""

    def __init__(self, device="gpu:0", fits=64, turns=0):
        self.device, self.fits, self.turns = device, fits, turns
        self.batches, self.slots, self.released, self.torn = [], [], 0, 0

    def slot(self, capacity):
        slot = SimpleNamespace(host=np.zeros((capacity, SIZE, SIZE, 3), np.uint8))
        self.slots.append(slot)
        return slot

    def run(self, slot, batch):
        if batch > self.fits:
            raise torch.OutOfMemoryError("pretended")
        before = slot.host[:batch].copy()
        for _ in range(self.turns):  # the device is slow: the other callers get on meanwhile
            os.sched_yield()
            self.torn += not np.array_equal(before, slot.host[:batch])
        self.batches.append(batch)
        return before.sum(axis=(1, 2), dtype=np.float32)

    def release(self):
        self.released += 1


def noise(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)


def sums(pictures):
    return pictures.sum(axis=(1, 2), dtype=np.float32)


def backend(*lanes, largest=16):
    return SlottedBackend(lanes or [PretendedLane()], dim=DIM, largest=largest)


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 50])
def test_every_batch_on_the_device_has_the_full_size_and_the_tail_is_padded(n):
    lane = PretendedLane()
    slotted = backend(lane)
    lane.batches.clear()
    np.testing.assert_array_equal(slotted.embed(noise(n)), sums(noise(n)))
    assert lane.batches == [16] * -(-n // 16)


def test_the_largest_batch_that_fits_every_device_is_found():
    small = PretendedLane("gpu:1", fits=5)
    slotted = backend(PretendedLane(), small, largest=64)
    assert slotted.batch_size == 4
    assert slotted.device == "gpu:0,gpu:1"
    assert small.released == 4  # 64, 32, 16, 8


def test_a_device_without_room_for_one_picture_is_an_error_that_names_it():
    with pytest.raises(EncoderError, match=r"gpu:0 lacks the memory for one picture.*--device cpu"):
        backend(PretendedLane(fits=0))


def test_running_out_of_memory_later_halves_the_batch_and_loses_no_picture():
    lane = PretendedLane()
    slotted = backend(lane)
    lane.fits = 5  # somebody else took the memory
    np.testing.assert_array_equal(slotted.embed(noise(40)), sums(noise(40)))
    lane.batches.clear()
    np.testing.assert_array_equal(slotted.embed(noise(10)), sums(noise(10)))
    assert lane.batches == [4, 4, 4]
    lane.fits = 0
    with pytest.raises(EncoderError, match="lacks the memory for one picture"):
        slotted.embed(noise(3))
    lane.fits = 16
    np.testing.assert_array_equal(slotted.embed(noise(3)), sums(noise(3)))  # its slot was given back


def test_slots_are_never_overwritten_while_a_slow_device_reads_them():
    callers, rounds = 6, 5
    lanes = [PretendedLane("gpu:0", turns=100), PretendedLane("gpu:1", turns=100)]
    slotted = backend(*lanes)
    wrong = []

    def call(seed):
        for i in range(rounds):
            pictures = noise(16, seed * rounds + i)
            if not np.array_equal(slotted.embed(pictures), sums(pictures)):
                wrong.append(seed)

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sum(lane.torn for lane in lanes) == 0
    assert sum(len(lane.batches) for lane in lanes) == callers * rounds + len(lanes)


def test_memory_is_bounded_by_the_slots():
    lane = PretendedLane()
    slotted = backend(lane)
    made = len(lane.slots)
    for seed in range(20):
        slotted.embed(noise(33, seed))
    assert len(lane.slots) == made == SLOTS + 1  # one was to find the batch size


@pytest.mark.parametrize(("size", "wanted"), [(224, 256), (336, 64), (518, 32), (4000, 1)])
def test_a_batch_s_pictures_stay_below_forty_mebibytes(size, wanted):
    assert largest_batch(size) == wanted
