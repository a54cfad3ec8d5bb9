"""JPEG decoded and resized on GPUs (`--decoder gpu`). Alone imports torchcodec.

What is no plain JPEG, and what the GPU refuses, goes the CPU's way. nvJPEG's hardware engine has been seen to ignore
the stream it is given and to overwrite memory that queued kernels still read (torchcodec issue 1634): here it has a
stream and memory of its own, one caller at a time, and that stream is drained before each call.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import numpy as np
import torch
from torchcodec.decoders import decode_jpeg

from indexer.errors import EncoderError, PixelError
from indexer.pixels import decode
from indexer.pixels.fit import square_of_planes
from indexer.pixels.jpeg import plain_size
from indexer.types import PixelSpec, UInt8

BATCH_BYTES = 256 << 20  # of decoded pictures on a GPU at once; one larger picture goes alone
SAMPLE = 16  # pictures that both ways decode at the start of a run
MOST_DIFFERENCE = 4.0  # grey levels, mean over a picture: ways of upsampling colour stay below it, damage does not


class GpuDecoder:
    """Squares of plain JPEG files; thread-safe."""

    def __init__(self, devices: Sequence[torch.device], spec: PixelSpec) -> None:
        self._spec = spec
        self._free: queue.SimpleQueue[_Device] = queue.SimpleQueue()
        for device in devices:
            self._free.put(_Device(device, spec))
        self._lock = threading.Lock()
        self.difference: float | None = None  # None until the first plain JPEG came

    def squares(self, images: Sequence[bytes]) -> list[UInt8 | None]:
        """(size, size, 3) of each image that a GPU could decode, None for the others.

        Raises EncoderError where the first ones differ from the CPU's way by more than rounding.
        """
        plain = {i: size for i, data in enumerate(images) if (size := plain_size(data))}
        squares: list[UInt8 | None] = [None] * len(images)
        if plain and not self._trusted([images[i] for i in list(plain)[:SAMPLE]]):
            return squares
        for batch in _batches(plain):
            device = self._free.get()
            try:
                for i, square in zip(batch, device.squares([images[i] for i in batch]), strict=True):
                    squares[i] = square
            finally:
                self._free.put(device)
        return squares

    def _trusted(self, images: Sequence[bytes]) -> bool:
        """Whether the two ways have been compared; done with `images` where they have not."""
        with self._lock:
            if self.difference is None:
                devices = [self._free.get() for _ in range(self._free.qsize())]
                try:
                    found = [d for device in devices for d in _differences(device, images, self._spec)]
                finally:
                    for device in devices:
                        self._free.put(device)
                self.difference = max(found, default=None)
            return self.difference is not None


def _differences(device: _Device, images: Sequence[bytes], spec: PixelSpec) -> Iterator[float]:
    """Of each image that both ways can decode: grey levels, mean over its square. EncoderError where that is much."""
    for data, square, again in zip(images, device.squares(images), device.squares(images), strict=True):
        try:
            wanted = next(decode(data, "jpg", spec)).pixels
        except PixelError:
            continue
        if square is None or again is None:
            continue
        if not np.array_equal(square, again):
            raise EncoderError(f"{device.name} decodes one JPEG in two ways. Leave --decoder gpu away.")
        difference = float(np.abs(square.astype(np.int16) - wanted).mean())
        if difference > MOST_DIFFERENCE:
            raise EncoderError(
                f"JPEG decoded on {device.name} differs from the CPU's way by {difference:.1f} grey levels, more than "
                f"{MOST_DIFFERENCE:g}. Leave --decoder gpu away."
            )
        yield difference


class _Device:
    """One GPU's decoder. Not thread-safe: it is handed from caller to caller."""

    def __init__(self, device: torch.device, spec: PixelSpec) -> None:
        self.name = str(device)
        self._device, self._spec = device, spec
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def squares(self, images: Sequence[bytes]) -> list[UInt8 | None]:
        try:
            with self._on_stream():
                return list(self._decoded(images))
        except RuntimeError as error:  # a batch gives all or nothing: halve it, for what is damaged or for memory
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            if len(images) == 1:
                return [None]  # the CPU's way will name what is wrong with it, or decode it
        middle = len(images) // 2
        return list(chain(self.squares(images[:middle]), self.squares(images[middle:])))

    def _decoded(self, images: Sequence[bytes]) -> UInt8:
        planes = decode_jpeg(list(images), mode="RGB", device=self._device)
        together = torch.stack([square_of_planes(p, self._spec) for p in planes])
        pictures: UInt8 = together.cpu().numpy()  # waits for the stream: nothing of this batch is queued any more
        return pictures

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        if self._stream is None:
            yield
            return
        self._stream.synchronize()  # drained, also where the last batch ended in an error
        with torch.inference_mode(), torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            yield


def _batches(sizes: dict[int, tuple[int, int]]) -> Iterator[list[int]]:
    """The images' numbers, in batches of at most BATCH_BYTES decoded."""
    batch: list[int] = []
    nbytes = 0
    for i, (height, width) in sizes.items():
        if batch and nbytes + 3 * height * width > BATCH_BYTES:
            yield batch
            batch, nbytes = [], 0
        batch.append(i)
        nbytes += 3 * height * width
    if batch:
        yield batch
