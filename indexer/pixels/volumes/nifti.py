"""Slices of volumes in radiological convention: right on the left, anterior or head up; and NIfTI's header."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import PixelError
from indexer.pixels.decoder_errors import DECODER_ERRORS, named
from indexer.pixels.grey import GreyScale, render
from indexer.pixels.limits import MAX_INFLATED, PLAIN_BYTES, check_size
from indexer.pixels.parts import Facts, Numbered, Raster, Rendering
from indexer.pixels.volumes import metaimage, nrrd
from indexer.pixels.volumes.voxels import image_of
from indexer.pixels.window import PERCENTILES
from indexer.types import Fact

HEADERS = {"nrrd": nrrd.header, "metaimage": metaimage.header}
_NAMES = {"nifti": "NIfTI", "nrrd": "NRRD", "metaimage": "MetaImage"}
PLANES = ("axial", "coronal", "sagittal")
# Plane → index of its normal among the axes right, anterior, superior
_ACROSS = {"axial": 2, "coronal": 1, "sagittal": 0}


class VolumeReader:
    """Reader of a volume; its parts are the slices along one axis, from inferior, posterior or left.

    A series of volumes (4-D and more) has the slices of the first volume, then those of the next, in the file's order.
    The window is computed from the whole volume that a slice is in. Raises PixelError.
    """

    def __init__(self, kind: str, data: bytes, rendering: Rendering) -> None:
        """`kind`: nifti, nrrd or metaimage."""
        if rendering.plane not in PLANES:
            raise ValueError(f"plane is {rendering.plane!r}, not one of {', '.join(PLANES)}")
        self._rendering, self._kind = rendering, _NAMES[kind]
        self._across = across = _ACROSS[rendering.plane]
        try:
            # in the calling process, only what the header announced as a plain file
            room = MAX_INFLATED if rendering.isolated else PLAIN_BYTES
            self._image, volumes = _opened(data, room) if kind == "nifti" else image_of(HEADERS[kind](data), data, room)
            shape, affine = _turned(self._image)
            self._seconds = _seconds(self._image)
            self._millimetres = _millimetres(affine * _unit(self._image), across)
        except _errors() as error:
            raise named(error, self._kind) from error
        self._several = volumes > 1
        self.parts = Numbered(shape[across] * volumes, self._facts, shape[across])
        self._volume: tuple[int, _Volume] | None = None  # read when pixels are requested; one at a time

    def rasters(self, positions: Sequence[int]) -> Iterator[Raster]:
        down, right = ((1, 0), (2, 0), (2, 1))[2 - self._across]
        for position in positions:
            number, slice_ = divmod(position, self.parts.in_volume)
            volume = self._read(number)
            cut = np.take(volume.values, slice_, axis=self._across).T[::-1, ::-1]
            check_size(*cut.shape)
            pixels, flags = render(np.ascontiguousarray(cut), GreyScale(limits=volume.limits), self._rendering.rules)
            yield Raster(pixels, float(volume.spacing[down] / volume.spacing[right]), flags)

    def close(self) -> None:
        pass

    def _facts(self, position: int) -> Facts:
        """z; in a series of volumes also phase: the number of the volume, from 1, and time: seconds, where known."""
        number, slice_ = divmod(position, self.parts.in_volume)
        z, seconds = self._millimetres(slice_), self._seconds(number)
        facts: dict[str, Fact] = {"z": z} if np.isfinite(z) else {}
        if self._several:
            facts |= {"phase": number + 1.0} | ({"time": seconds} if np.isfinite(seconds) else {})
        return facts

    def _read(self, number: int) -> _Volume:
        if self._volume is None or self._volume[0] != number:
            self._volume = None  # before the next one is read
            try:
                self._volume = (number, _volume(self._image, number))
            except _errors() as error:
                raise named(error, self._kind) from error
        return self._volume[1]


@dataclass(frozen=True)
class _Volume:
    values: npt.NDArray[Any]  # (x to the right, y to the front, z to the head)
    spacing: npt.NDArray[np.float64]  # (3,) mm
    limits: tuple[float, float] | None  # the percentiles of all voxels


def _opened(data: bytes, room: int) -> tuple[Any, int]:
    """The image, with only its header read, and the number of its volumes.

    Of a truncated file the number of those that are whole and one more, which cannot be read.
    """
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
    nbytes = int(np.prod(shape[:3], dtype=object)) * image.get_data_dtype().itemsize
    whole = max(0, len(data) - int(image.dataobj.offset)) // max(1, nbytes)
    return image, min(int(np.prod(shape[3:], dtype=object)), whole + 1)


def _turned(image: Any) -> tuple[tuple[int, ...], npt.NDArray[np.float64]]:
    """Shape and affine of a volume in RAS order: axes to the right, the front and the head."""
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


def _seconds(image: Any) -> Callable[[int], float]:
    """Volume → its time in seconds; NaN where the header has no unit or step of time."""
    unit = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}.get(image.header.get_xyzt_units()[1], np.nan)
    zooms = image.header.get_zooms()
    step = float(zooms[3]) if len(zooms) == 4 and zooms[3] > 0 else np.nan
    start = float(image.header["toffset"])
    return lambda number: round((start + number * step) * unit, 6)


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


def _volume(image: Any, number: int) -> _Volume:
    import nibabel

    shape = image.shape
    place = tuple(map(int, np.unravel_index(number, shape[3:], order="F"))) if len(shape) > 3 else ()
    values = np.asarray(image.dataobj[(slice(None),) * min(3, len(shape)) + place])
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
    if find_spec("nibabel") is None:  # a PixelError says so
        return DECODER_ERRORS
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
