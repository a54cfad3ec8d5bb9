"""JPEG decoded and resized on GPUs (`--decoder gpu`). The only module that imports torchcodec.

Files that are not plain JPEG, or that the GPU rejects, are decoded on the CPU. nvJPEG's hardware engine may ignore the
stream it is given and overwrite memory that queued kernels still read (torchcodec issue 1634): here it has a stream and
memory of its own, one caller at a time, and the stream is synchronised before each call.
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
from indexer.pixels.fit import squares_of_planes
from indexer.pixels.jpeg.cpu import plain_size
from indexer.types import PixelSpec, UInt8

BATCH_BYTES = 256 << 20  # of decoded images on a GPU at once; a larger image is decoded alone
SAMPLE = 16  # images decoded by GPU and CPU at the start of a run, for comparison
MOST_DIFFERENCE = 4.0  # grey levels, mean over an image: methods of chroma upsampling stay below it, errors do not


class GpuDecoder:
    """Implements `pipeline.worker.Decoder`: plain JPEG files to the encoder's square; thread-safe."""

    at_once = 1 << 20  # a whole chunk

    def __init__(self, devices: Sequence[torch.device], spec: PixelSpec) -> None:
        self._spec = spec
        self._free: queue.SimpleQueue[_Device] = queue.SimpleQueue()
        for device in devices:
            self._free.put(_Device(device, spec))
        self._lock = threading.Lock()
        self.difference: float | None = None  # None until the first plain JPEG was compared

    def squares(self, images: Sequence[bytes]) -> list[UInt8 | None]:
        """Pixels (size, size, 3) of each image that a GPU could decode, None for the others.

        Raises EncoderError where the first ones differ from the CPU's pixels by more than MOST_DIFFERENCE.
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
        """Whether GPU and CPU have been compared; compares them on `images` where not."""
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
    """Mean difference in grey levels of each image that both can decode. Raises EncoderError where it is large."""
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
    """One GPU's decoder. Not thread-safe: callers take turns."""

    def __init__(self, device: torch.device, spec: PixelSpec) -> None:
        self.name = str(device)
        self._device, self._spec = device, spec
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def squares(self, images: Sequence[bytes]) -> list[UInt8 | None]:
        try:
            with self._on_stream():
                return list(self._decoded(images))
        except RuntimeError as error:  # a batch fails as a whole, for one damaged image or for memory: halve it
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            if len(images) == 1:
                return [None]  # the CPU decodes it or reports the error
        middle = len(images) // 2
        return list(chain(self.squares(images[:middle]), self.squares(images[middle:])))

    def _decoded(self, images: Sequence[bytes]) -> UInt8:
        planes = decode_jpeg(list(images), mode="RGB", device=self._device)
        # waits for the stream: no work of this batch stays queued
        pictures: UInt8 = squares_of_planes(planes, self._spec).cpu().numpy()
        return pictures

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        if self._stream is None:
            yield
            return
        self._stream.synchronize()  # also after a batch that ended in an error
        with torch.inference_mode(), torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            yield


def _batches(sizes: dict[int, tuple[int, int]]) -> Iterator[list[int]]:
    """The images' indices, in batches of at most BATCH_BYTES decoded."""
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
