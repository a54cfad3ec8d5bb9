"""Runs the image tower on an NVIDIA GPU: uint8 pixels are copied from pinned memory, normalised on the device.

Normalisation is the same fp32 arithmetic as on the CPU; sums inside the network may round differently.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch._dynamo.exc import TorchDynamoException

from indexer.encoders.backends.normalise import DTYPES, Normalise
from indexer.encoders.families.definition import Towers
from indexer.errors import EncoderError
from indexer.types import EncoderSpec, Float32, UInt8

SHORTAGES = ("out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED")  # in messages of the driver, cuBLAS and cuDNN


class CudaSlot:
    """Implements `slots.Slot`: pinned host memory and device memory for one batch."""

    def __init__(self, capacity: int, size: int, dim: int, device: torch.device) -> None:
        shape = (capacity, size, size, 3)
        self.pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self.host: UInt8 = self.pinned.numpy()
        self.pixels = torch.empty(shape, dtype=torch.uint8, device=device)
        self.vectors = torch.empty((capacity, dim), dtype=torch.float32, pin_memory=True)
        self.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.begun = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        # blocking: the waiting thread sleeps, so that its core can decode
        self.done = torch.cuda.Event(blocking=True, enable_timing=True)  # type: ignore[no-untyped-call]


class CudaLane:
    """Implements `slots.Lane`: one GPU with its weights, one stream for copies and one for kernels.

    All kernels are launched by one thread. cuDNN plans its attention anew for each thread that calls it: with 24 of
    them most of the time of a run's first batches on an H100 went into that, and the GPU idled.
    """

    def __init__(
        self, towers: Towers, spec: EncoderSpec, device: torch.device, *, channels_last: bool, compiled: bool
    ) -> None:
        self.device = str(device)
        self._device, self._spec = device, spec
        module = towers.module.eval().requires_grad_(False).to(device, DTYPES[spec.precision])
        if channels_last:
            module.to(memory_format=torch.channels_last)
        normalise = Normalise.of(spec, device)

        def embed(pixels: torch.Tensor) -> torch.Tensor:  # holds no lane: its weights are freed with its last user
            return towers.image(normalise(pixels)).float()

        self._embed = torch.compile(embed, dynamic=False) if compiled else embed
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._kernels = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._launches = ThreadPoolExecutor(1, "indexer-launches")
        self._lock = threading.Lock()
        self.busy_seconds = 0.0
        torch.cuda.synchronize(device)  # weights are converted on the default stream, which our streams do not wait for

    def slot(self, capacity: int) -> CudaSlot:
        """Allocate memory for `capacity` pictures. Raises torch.OutOfMemoryError, also for lack of pinned memory."""
        try:
            return CudaSlot(capacity, self._spec.pixels.size, self._spec.dim, self._device)
        except RuntimeError as error:
            if _out_of_memory(error):
                raise torch.OutOfMemoryError(f"{self.device}: {error}") from error
            raise

    def run(self, slot: CudaSlot, batch: int) -> Float32:
        """Vectors (batch, dim) of the slot's first `batch` pictures.

        Returns once the device has finished with the slot. Raises torch.OutOfMemoryError, EncoderError.
        """
        self._launches.submit(self._launch, slot, batch).result()
        slot.done.synchronize()
        with self._lock:
            self.busy_seconds += slot.begun.elapsed_time(slot.done) / 1000
        return np.array(slot.vectors[:batch].numpy())

    def _launch(self, slot: CudaSlot, batch: int) -> None:
        """Queue a batch on the device. Raises torch.OutOfMemoryError, EncoderError."""
        try:
            with torch.inference_mode(), torch.cuda.device(self._device), _exact_fp32():
                with torch.cuda.stream(self._copies):
                    slot.pixels[:batch].copy_(slot.pinned[:batch], non_blocking=True)
                    slot.copied.record()
                with torch.cuda.stream(self._kernels):
                    self._kernels.wait_event(slot.copied)
                    slot.begun.record()
                    slot.vectors[:batch].copy_(self._embed(slot.pixels[:batch]), non_blocking=True)
                    slot.done.record()
        except RuntimeError as error:
            if _out_of_memory(error):
                torch.cuda.synchronize(self._device)  # the copy may still be reading the slot
                raise torch.OutOfMemoryError(f"{self.device}: {error}") from error
            if not isinstance(error, TorchDynamoException):
                raise
            # the usual causes: no C compiler, or a Triton of another version
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise EncoderError(
                f"torch.compile failed for {self._spec.name}: {first}. Run without it: --no-compile."
            ) from error

    def release(self) -> None:
        with torch.cuda.device(self._device):
            torch.cuda.empty_cache()


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether the error, or one that caused it, reports that memory ran out, in torch's words or a library's."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in SHORTAGES):
            return True
        error = error.__cause__ or error.__context__
    return False


class _ExactFp32:
    """Context with cuDNN in full fp32 (the default is TF32, a 10-bit mantissa) and deterministic algorithms.

    The setting is global to the process: the first thread to enter makes it, the last one to leave restores it.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._made = threading.Lock(), 0, ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with self._lock:
            if not self._inside:
                self._made.enter_context(flags)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._made.close()


_exact_fp32 = _ExactFp32()
