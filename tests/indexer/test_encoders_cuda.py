"""The GPU's own code with the CPU as its device: a pretended torch.cuda writes down who waited for whom."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from indexer.encoders.backends import cuda
from indexer.encoders.backends.cpu import CpuBackend
from indexer.encoders.backends.cuda import CudaLane
from indexer.encoders.backends.slots import SlottedBackend
from indexer.encoders.families import weights
from indexer.encoders.loading import find
from indexer.errors import EncoderError

CPU = torch.device("cpu")
MODEL = "timm:test_vit"


class PretendedCuda:
    """Streams, events and contexts that take notes."""

    def __init__(self, monkeypatch):
        self.log, self.streams, self.events = [], 0, 0
        for name in ("Stream", "Event", "stream", "device", "synchronize", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        empty = torch.empty
        monkeypatch.setattr(
            torch, "empty", lambda *a, pin_memory=False, **k: (self.note("pinned", pin_memory), empty(*a, **k))[1]
        )

    def note(self, what, wanted=True):
        if wanted:
            self.log.append(what)

    def Stream(self, _):
        self.streams += 1
        name = "copies" if self.streams == 1 else "kernels"
        return type(
            "Stream", (), {"name": name, "wait_event": lambda s, e: self.note(f"{s.name} waits for {e.name}")}
        )()

    def Event(self, blocking=False, enable_timing=False):
        name = "done" if blocking else "begun" if enable_timing else "copied"
        methods = {
            "record": lambda e: self.note(f"{e.name} recorded"),
            "synchronize": lambda e: self.note(f"host waits for {e.name}"),
            "elapsed_time": lambda e, other: 2.0 * (e.name == "begun" and other.name == "done"),  # milliseconds
        }
        return type("Event", (), {"name": name, **methods})()

    @contextlib.contextmanager
    def stream(self, stream):
        self.note(f"on {stream.name}")
        yield

    @contextlib.contextmanager
    def device(self, _):
        yield

    def synchronize(self, _):
        self.note("device drained")

    def empty_cache(self):
        self.note("cache emptied")


@pytest.fixture
def pretended(monkeypatch):
    return PretendedCuda(monkeypatch)


def lane(**options):
    definition = find(MODEL, weights.parse("random"))
    options = {"channels_last": False, "compiled": False} | options
    return CudaLane(definition.build(), definition.spec, CPU, **options), definition


def noise(spec, n, seed=0):
    size = spec.pixels.size
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def test_a_batch_is_copied_then_embedded_then_waited_for(pretended):
    gpu, _ = lane()
    slot = gpu.slot(4)
    assert pretended.log[0] == "device drained"  # the weights are there before any stream of ours reads them
    assert pretended.log[1:] == ["pinned", "pinned"]  # what goes in and what comes out
    pretended.log.clear()
    gpu.run(slot, 4)
    assert pretended.log == [
        "on copies", "copied recorded", "on kernels", "kernels waits for copied", "begun recorded",
        "done recorded", "host waits for done",
    ]  # fmt: skip
    assert gpu.busy_seconds == 0.002


@pytest.mark.parametrize("channels_last", [False, True])
def test_its_vectors_are_the_cpus(pretended, channels_last):
    gpu, definition = lane(channels_last=channels_last)
    slotted = SlottedBackend([gpu], dim=definition.spec.dim, largest=8)
    wanted = CpuBackend(definition.build(), definition.spec, convolutional=False)
    pictures = noise(definition.spec, 19)
    np.testing.assert_allclose(slotted.embed(pictures), wanted.embed(pictures), rtol=1e-4, atol=1e-5)


def test_a_vector_handed_out_is_not_the_slots_memory(pretended):
    gpu, definition = lane()
    slot = gpu.slot(2)
    slot.host[:] = noise(definition.spec, 2)
    first = gpu.run(slot, 2)
    kept = first.copy()
    slot.host[:] = noise(definition.spec, 2, seed=1)
    gpu.run(slot, 2)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "shortage",
    [
        torch.OutOfMemoryError("pretended"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory"),
        cuda.TorchDynamoException("backend='inductor' raised: OutOfMemoryError: CUDA out of memory."),
    ],
    ids=["torch", "cublas", "driver", "compiler"],
)
def test_memory_that_runs_out_drains_the_device_before_the_slot_is_filled_again(pretended, shortage):
    gpu, definition = lane()
    slotted = SlottedBackend([gpu], dim=definition.spec.dim, largest=8)
    embed = gpu._embed

    def greedy(pixels):
        if len(pixels) > 3:
            raise shortage
        return embed(pixels)

    gpu._embed = greedy
    pictures = noise(definition.spec, 8)
    pretended.log.clear()
    got = slotted.embed(pictures)
    gpu._embed = embed
    np.testing.assert_allclose(got, slotted.embed(pictures), rtol=1e-4, atol=1e-5)
    first = pretended.log.index("device drained")
    assert pretended.log[: first + 2] == [
        "on copies", "copied recorded", "on kernels", "kernels waits for copied", "begun recorded",
        "device drained", "cache emptied",
    ]  # fmt: skip
    assert "host waits for done" not in pretended.log[:first]


def test_an_error_that_is_no_shortage_of_memory_halves_nothing(pretended):
    gpu, definition = lane()

    def broken(_):
        raise RuntimeError("an illegal address")

    gpu._embed = broken
    with pytest.raises(RuntimeError, match="an illegal address"):
        SlottedBackend([gpu], dim=definition.spec.dim, largest=8)


def test_a_compiler_that_fails_is_told_with_the_way_out(pretended, monkeypatch):
    def compiler(function, *, dynamic):
        assert dynamic is False  # batches have one size

        def broken(pixels):
            raise cuda.TorchDynamoException("no C compiler found\nand a long story")

        return broken

    monkeypatch.setattr(torch, "compile", compiler)
    gpu, _ = lane(compiled=True)
    with pytest.raises(EncoderError, match=r"no C compiler found\. Run without it: --no-compile"):
        gpu.run(gpu.slot(2), 2)


def test_without_compiling_the_compiler_is_not_asked(pretended, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError(f"compiled {args} {options}")

    monkeypatch.setattr(torch, "compile", refuse)
    gpu, definition = lane(compiled=False)
    assert gpu.run(gpu.slot(2), 2).shape == (2, definition.spec.dim)


def test_two_gpus_at_once_compute_in_fp32_proper_and_leave_the_settings_as_they_were(pretended):
    definition = find(MODEL, weights.parse("random"))
    flags = torch.backends.cudnn
    before = (flags.allow_tf32, flags.deterministic)
    first_is_in, second_is_in, first_is_out = threading.Event(), threading.Event(), threading.Event()
    seen = []

    def image_of_first(pixels):
        first_is_in.set()
        assert second_is_in.wait(600)
        return torch.zeros(len(pixels), definition.spec.dim)

    def image_of_second(pixels):
        second_is_in.set()
        assert first_is_out.wait(600)
        seen.append((flags.allow_tf32, flags.deterministic))
        return torch.zeros(len(pixels), definition.spec.dim)

    def run(image):
        gpu = CudaLane(
            replace(definition.build(), image=image), definition.spec, CPU, channels_last=False, compiled=False
        )
        gpu.run(gpu.slot(1), 1)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, image_of_first)
        assert first_is_in.wait(600)
        second = pool.submit(run, image_of_second)
        first.add_done_callback(lambda _: first_is_out.set())
        first.result()
        second.result()
    assert seen == [(False, True)]
    assert (flags.allow_tf32, flags.deterministic) == before
