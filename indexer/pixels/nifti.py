"""Slices of NIfTI volumes in radiological convention: the patient's right on the left, anterior or head up."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import PixelError
from indexer.pixels.decoder_errors import DECODER_ERRORS, named
from indexer.pixels.grey import GreyScale, render
from indexer.pixels.limits import MAX_INFLATED, PLAIN_BYTES, check_size
from indexer.pixels.parts import Facts, Numbered, Raster, Rendering
from indexer.pixels.window import PERCENTILES

PLANES = ("axial", "coronal", "sagittal")
# Plane → index of its normal among the axes right, anterior, superior
_ACROSS = {"axial": 2, "coronal": 1, "sagittal": 0}


class NiftiReader:
    """Reader of a volume; its parts are the slices along one axis, from inferior, posterior or left.

    The window is computed from the whole volume. Of a series of volumes (4-D) the first is read, with a flag. Raises
    PixelError.
    """

    def __init__(self, data: bytes, rendering: Rendering) -> None:
        if rendering.plane not in PLANES:
            raise ValueError(f"plane is {rendering.plane!r}, not one of {', '.join(PLANES)}")
        self._rendering = rendering
        self._across = across = _ACROSS[rendering.plane]
        try:
            # in the calling process, only what the header announced as a plain file
            self._image, self._flags = _opened(data, MAX_INFLATED if rendering.isolated else PLAIN_BYTES)
            shape, affine = _turned(self._image)
            self._millimetres = _millimetres(affine * _unit(self._image), across)
        except _errors() as error:
            raise named(error, "NIfTI") from error
        self.parts = Numbered(shape[across], self._facts)
        self._volume: _Volume | None = None  # read when pixels are requested

    def rasters(self, positions: Sequence[int]) -> Iterator[Raster]:
        if self._volume is None:
            try:
                self._volume = _volume(self._image)
            except _errors() as error:
                raise named(error, "NIfTI") from error
        values, spacing, limits = self._volume.values, self._volume.spacing, self._volume.limits
        down, right = ((1, 0), (2, 0), (2, 1))[2 - self._across]
        for position in positions:
            cut = np.take(values, position, axis=self._across).T[::-1, ::-1]
            check_size(*cut.shape)
            pixels, flags = render(np.ascontiguousarray(cut), GreyScale(limits=limits), self._rendering.rules)
            yield Raster(pixels, float(spacing[down] / spacing[right]), (*self._flags, *flags))

    def close(self) -> None:
        pass

    def _facts(self, position: int) -> Facts:
        z = self._millimetres(position)
        return {"z": z} if np.isfinite(z) else {}


@dataclass(frozen=True)
class _Volume:
    values: npt.NDArray[Any]  # (x to the right, y to the front, z to the head)
    spacing: npt.NDArray[np.float64]  # (3,) mm
    limits: tuple[float, float] | None  # the percentiles of all voxels


def _opened(data: bytes, room: int) -> tuple[Any, tuple[str, ...]]:
    """The image, with only its header read, and flags."""
    try:
        import nibabel
    except ImportError as error:
        raise PixelError("decoder not installed", "NIfTI needs: pip install 'embedding-indexer[nifti]'") from error
    data = _inflated(data, room) if data[:2] == b"\x1f\x8b" else data
    kind = nibabel.Nifti2Image if data[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nibabel.Nifti1Image
    image = kind.from_bytes(data)
    shape = tuple(int(n) for n in image.shape)
    if len(shape) < 2 or min(shape) <= 0:
        raise PixelError("empty image", f"NIfTI of shape {shape}")
    if int(np.prod(shape[:3], dtype=object)) * 8 > MAX_INFLATED:
        raise PixelError("too many pixels", f"NIfTI of shape {shape}")
    if image.get_data_dtype().fields:
        raise PixelError("unsupported image", f"NIfTI of {image.get_data_dtype()}")
    if np.issubdtype(image.get_data_dtype(), np.complexfloating):
        raise PixelError("unsupported image", "NIfTI of complex numbers")
    return image, ("first volume of a series",) if int(np.prod(shape[3:], dtype=object)) > 1 else ()


def _turned(image: Any) -> tuple[tuple[int, ...], npt.NDArray[np.float64]]:
    """Shape and affine of the first volume in RAS order: axes to the right, the front and the head."""
    import nibabel

    shape = (*image.shape[:3], 1)[:3]
    orientation = nibabel.io_orientation(image.affine)
    affine = image.affine @ nibabel.orientations.inv_ornt_aff(orientation, shape)
    turned = [0, 0, 0]
    for axis, place in enumerate(orientation[:, 0].astype(int)):
        turned[place] = int(shape[axis])
    return tuple(turned), affine


def _unit(image: Any) -> float:
    """The header's unit of length in mm."""
    return {"meter": 1000.0, "micron": 0.001}.get(image.header.get_xyzt_units()[0], 1.0)


def _millimetres(affine: npt.NDArray[np.float64], across: int) -> Callable[[int], float]:
    """Slice → its distance in mm from the scanner's origin along the slices' normal, in the direction of `across`."""
    first, second = (affine[:3, axis] for axis in range(3) if axis != across)
    normal = np.cross(first, second)
    length = float(np.linalg.norm(normal))
    normal = normal / length if length > 0 else np.full(3, np.nan)
    step = float(normal @ affine[:3, across])
    start = float(normal @ affine[:3, 3])
    sign = -1.0 if step < 0 else 1.0
    return lambda position: round(sign * (start + position * step), 4)


def _volume(image: Any) -> _Volume:
    import nibabel

    shape = image.shape
    first = (slice(None),) * min(3, len(shape)) + (0,) * (len(shape) - 3)
    values = np.asarray(image.dataobj[first])
    values = values[..., None] if values.ndim == 2 else values
    orientation = nibabel.io_orientation(image.affine)
    turned = nibabel.apply_orientation(values, orientation)
    zooms = np.ones(3)
    zooms[: len(shape[:3])] = np.abs(np.asarray(image.header.get_zooms(), np.float64)[:3])
    spacing = np.ones(3)
    spacing[orientation[:, 0].astype(int)] = np.where(zooms > 0, zooms, 1.0)
    return _Volume(turned, spacing, _percentiles(turned))


def _inflated(data: bytes, room: int) -> bytes:
    """At most `room` bytes of a gzip file's concatenated members (RFC 1952, 2.2); bytes after the last are padding."""
    blocks: list[bytes] = []
    limit = room
    while data[:2] == b"\x1f\x8b":
        unpacker = zlib.decompressobj(wbits=31)
        blocks.append(unpacker.decompress(data, room))
        room -= len(blocks[-1])
        if unpacker.unconsumed_tail or room <= 0:
            raise PixelError("file too large", f"over {limit:,} bytes unpacked")
        if not unpacker.eof:
            raise PixelError("truncated", "NIfTI: the gzip stream is truncated")
        data = unpacker.unused_data
    return b"".join(blocks)


def _errors() -> tuple[type[BaseException], ...]:
    """The decoder errors and nibabel's own, which share no base class."""
    from nibabel.orientations import OrientationError
    from nibabel.spatialimages import HeaderDataError, ImageDataError
    from nibabel.wrapstruct import WrapStructError

    return (*DECODER_ERRORS, HeaderDataError, ImageDataError, OrientationError, WrapStructError)


def _percentiles(volume: npt.NDArray[Any]) -> tuple[float, float] | None:
    finite = volume[np.isfinite(volume)]
    if finite.size == 0:
        return None
    low, high = np.percentile(finite, PERCENTILES)
    return float(low), float(high)
