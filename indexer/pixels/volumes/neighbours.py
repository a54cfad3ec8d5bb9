"""2.5-D pictures: a slice and its two neighbours along the normal as the three channels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np

from indexer.errors import PixelError
from indexer.pixels.fit import square
from indexer.pixels.parts import Reader
from indexer.pixels.volumes.stacks import neighbours
from indexer.types import PixelSpec, UInt8

ALONE = "one slice in all three channels"  # flag
_TOGETHER = 16  # slices for which the reader is asked at once
_KEPT_BYTES = 32 << 20  # of slices that may be neighbours of a later one


class Neighbouring:
    """The parts of one image, each with its neighbours. Each channel is the picture that the slice has by itself."""

    def __init__(self, reader: Reader, spec: PixelSpec) -> None:
        """Raises PixelError where the order of the parts is not known."""
        self._reader, self._spec = reader, spec
        self._found = neighbours([part.facts for part in reader.parts])
        self._kept: OrderedDict[int, tuple[UInt8, tuple[str, ...]]] = OrderedDict()
        self._most = max(4 * _TOGETHER, _KEPT_BYTES // spec.size**2)

    def pictures(self, positions: Sequence[int]) -> Iterator[tuple[UInt8, tuple[str, ...]]]:
        """(size, size, 3) with the channels before, itself, behind; and the flags of the slice itself.

        Raises PixelError, also for a part in colour.
        """
        for start in range(0, len(positions), _TOGETHER):
            chunk = [self._found[position] for position in positions[start : start + _TOGETHER]]
            self._read([slice_ for channels in chunk for slice_ in channels])
            for channels in chunk:
                flags = (*self._kept[channels[1]][1], *([ALONE] if len(set(channels)) == 1 else []))
                yield np.stack([self._kept[slice_][0] for slice_ in channels], axis=-1), flags

    def _read(self, slices: Sequence[int]) -> None:
        """Hold all of these, decoding those that are not held yet; the others that were used last stay."""
        for slice_ in slices:
            if slice_ in self._kept:
                self._kept.move_to_end(slice_)
        new = sorted(set(slices) - self._kept.keys())
        for slice_, raster in zip(new, self._reader.rasters(new), strict=True):
            pixels = raster.pixels
            if pixels.ndim == 3 and (pixels != pixels[..., :1]).any():
                raise PixelError("image in colour", "the channels of --channels 3 are grey slices")
            shown = square(pixels, self._spec, raster.aspect)
            self._kept[slice_] = np.ascontiguousarray(shown[..., 0]), raster.flags
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
