"""Volumes of a text header and voxels behind it (NRRD, MetaImage): from bytes to an image that NIfTI's reader takes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import PixelError
from indexer.pixels.limits import MAX_INFLATED

_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # from left, posterior, superior to right, anterior, superior
_MOST_AXES = 5
_AUTOMATIC = 47  # zlib's window bits for a zlib or gzip stream


@dataclass(frozen=True)
class Voxels:
    """What a header says. Raises PixelError for numbers that no volume has."""

    kind: str  # of file, for messages
    sizes: tuple[int, ...]  # voxels along each axis of the file, the fastest first
    dtype: np.dtype[Any]
    affine: npt.NDArray[np.float64]  # (4, 4): voxel → mm to the left, the back and the head
    start: int  # byte at which the voxels begin
    packed: bool  # zlib or gzip
    across_first: bool = False  # the first axis counts volumes, else any behind the third do

    def __post_init__(self) -> None:
        if not 2 <= len(self.sizes) <= _MOST_AXES or min(self.sizes) <= 0:
            raise PixelError("unsupported image", f"{self.kind} of shape {self.sizes}")
        if not np.isfinite(self.affine).all():
            raise PixelError("corrupt image", f"{self.kind}: its axes or origin are not finite")
        if self.nbytes > MAX_INFLATED:
            raise PixelError("too many pixels", f"{self.kind} of shape {self.sizes}")

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.sizes, dtype=object)) * self.dtype.itemsize

    @property
    def announced(self) -> int:
        """Bytes of the voxels, and of one volume in float64."""
        volumes = self.sizes[0] if self.across_first else int(np.prod(self.sizes[3:], dtype=object))
        return self.nbytes + self.nbytes // self.dtype.itemsize // volumes * 8


def image_of(voxels: Voxels, data: bytes, room: int) -> tuple[Any, int]:
    """A nibabel image of the voxels, and its number of volumes. Raises PixelError."""
    try:
        import nibabel
    except ImportError as error:
        needs = f"{voxels.kind} needs: pip install 'embedding-indexer[nifti]'"
        raise PixelError("decoder not installed", needs) from error
    if voxels.nbytes > room:
        raise PixelError("file too large", f"{voxels.kind}: {voxels.nbytes:,} bytes unpacked")
    values = np.frombuffer(_bytes(voxels, data), voxels.dtype).reshape(voxels.sizes, order="F")
    if voxels.across_first:
        values = np.moveaxis(values, 0, -1)
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        values = values.astype(np.float64)  # which NIfTI's readers do not take
    elif not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    image = nibabel.Nifti1Image(values, _FLIP @ voxels.affine, dtype=values.dtype)
    return image, int(np.prod(values.shape[3:], dtype=object))


def _bytes(voxels: Voxels, data: bytes) -> bytes | memoryview:
    behind = memoryview(data)[voxels.start :]
    if voxels.packed:
        unpacker = zlib.decompressobj(wbits=_AUTOMATIC)
        found: bytes | memoryview = unpacker.decompress(behind, voxels.nbytes)
    else:
        found = behind[: voxels.nbytes]
    if len(found) < voxels.nbytes:
        raise PixelError("truncated", f"{voxels.kind}: {len(found):,} of {voxels.nbytes:,} bytes of voxels")
    return found


def affine_of(axes: npt.NDArray[np.float64], origin: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(4, 4) from the steps along two or three axes (n, n or 3), a row each in mm, and the origin (n or 3)."""
    affine = np.eye(4)
    n, wide = axes.shape
    affine[:wide, :n] = axes.T
    affine[: len(origin), 3] = origin
    return affine
