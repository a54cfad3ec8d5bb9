"""JPEG decoded and resized on GPUs (`--decoder gpu`). The only module that imports torchcodec.

Files that are not plain JPEG, or that the GPU rejects, are decoded on the CPU. nvJPEG's hardware engines may ignore the
stream they are given and overwrite memory that queued kernels still read (torchcodec issue 1634): here each caller has
a stream and memory of its own, and the stream is synchronised before each call.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain

import numpy as np
import torch
from torchcodec.decoders import decode_jpeg

from indexer.errors import EncoderError, PixelError
from indexer.pixels import decode
from indexer.pixels.fit import squares_of_planes
from indexer.pixels.jpeg.cpu import plain_sizes
from indexer.types import PixelSpec, UInt8

BATCH_BYTES = 256 << 20  # of decoded images of one call; a larger image is decoded alone
CALLERS = 4  # of one GPU at once: an H100 decoded 14,441 files a second for one, 16,715 for two, 20,480 for four
SAMPLE = 16  # images decoded by GPU and CPU at the start of a run, for comparison
MOST_DIFFERENCE = 4.0  # grey levels, mean over an image: methods of chroma upsampling stay below it, errors do not


Encoded = bytes | torch.Tensor  # a file, or its bytes as a uint8 tensor on the CPU


class GpuDecoder:
    """Implements `pipeline.worker.Decoder`: plain JPEG files to the encoder's square; thread-safe."""

    at_once = 1 << 20  # a whole chunk

    def __init__(self, devices: Sequence[torch.device], spec: PixelSpec) -> None:
        self._spec = spec
        self._free: queue.SimpleQueue[_Device] = queue.SimpleQueue()
        for _ in range(CALLERS):
            for device in devices:
                self._free.put(_Device(device, spec))
        self._callers = CALLERS * len(devices)
        self._lock = threading.Lock()
        self.difference: float | None = None  # None until the first plain JPEG was compared

    def squares(self, images: Sequence[bytes]) -> list[UInt8 | None]:
        """Pixels (size, size, 3) of each image that a GPU could decode, None for the others.

        Raises EncoderError where the first ones differ from the CPU's pixels by more than MOST_DIFFERENCE.
        """
        return self.squares_of(images, plain_sizes(images))

    def squares_of(self, images: Sequence[Encoded], plain: Mapping[int, tuple[int, int]]) -> list[UInt8 | None]:
        """`squares`, where the plain ones are known by their index, with height and width."""
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

    def _trusted(self, images: Sequence[Encoded]) -> bool:
        """Whether GPU and CPU have been compared; compares them on `images` where not."""
        with self._lock:
            if self.difference is None:
                devices = [self._free.get() for _ in range(self._callers)]
                try:
                    found = list(_differences(devices, images, self._spec))
                finally:
                    for device in devices:
                        self._free.put(device)
                self.difference = max(found, default=None)
            return self.difference is not None


def _differences(devices: Sequence[_Device], images: Sequence[Encoded], spec: PixelSpec) -> Iterator[float]:
    """Mean difference in grey levels of each image that both a GPU and the CPU can decode, as all callers decode them
    at once, and again. Raises EncoderError where it is large.
    """
    with ThreadPoolExecutor(len(devices)) as pool:
        made = [*pool.map(lambda device: device.squares(images), devices)]
        made += pool.map(lambda device: device.squares(images), devices)
    first: dict[tuple[str, int], UInt8] = {}  # by GPU and image
    for device, squares in zip([*devices, *devices], made, strict=True):
        for i, square in enumerate(squares):
            if square is not None and not np.array_equal(first.setdefault((device.name, i), square), square):
                raise EncoderError(f"{device.name} decodes one JPEG in two ways. Leave --decoder gpu away.")
    for i, data in enumerate(images):
        try:
            plain = data if isinstance(data, bytes) else data.numpy().tobytes()
            wanted = next(decode(plain, "jpg", spec)).pixels
        except PixelError:
            continue
        for name in {device.name for device in devices}:
            if (found := first.get((name, i))) is not None:
                yield _difference(name, found, wanted)


def _difference(name: str, square: UInt8, wanted: UInt8) -> float:
    """In grey levels, mean of a picture. Raises EncoderError where it is large."""
    difference = float(np.abs(square.astype(np.int16) - wanted).mean())
    if difference > MOST_DIFFERENCE:
        raise EncoderError(
            f"JPEG decoded on {name} differs from the CPU's way by {difference:.1f} grey levels, more than "
            f"{MOST_DIFFERENCE:g}. Leave --decoder gpu away."
        )
    return difference


class _Device:
    """A caller's decoder on one GPU. Not thread-safe."""

    def __init__(self, device: torch.device, spec: PixelSpec) -> None:
        self.name = str(device)
        self._device, self._spec = device, spec
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def squares(self, images: Sequence[Encoded]) -> list[UInt8 | None]:
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

    def _decoded(self, images: Sequence[Encoded]) -> UInt8:
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


def _batches(sizes: Mapping[int, tuple[int, int]]) -> Iterator[list[int]]:
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
