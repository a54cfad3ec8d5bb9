"""NIfTI volumes as slices of one plane, in radiological display: patient's right on the left, anterior or head up."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import PixelError
from indexer.pixels.decoder_errors import DECODER_ERRORS, named
from indexer.pixels.frames import Frame, FrameRequest, wanted
from indexer.pixels.grey import GreyScale, render
from indexer.pixels.limits import MAX_INFLATED, check_size
from indexer.pixels.window import PERCENTILES

PLANES = ("axial", "coronal", "sagittal")
_ACROSS = {"axial": 2, "coronal": 1, "sagittal": 0}  # the axis (of right-, anterior-, superior-going ones) cut across


def nifti_frames(data: bytes, request: FrameRequest) -> Iterator[Frame]:
    """The slices across one axis, from inferior, posterior or left; the window is the whole volume's.

    A series of volumes (4-D) gives its first one, flagged. Raises PixelError.
    """
    if request.plane not in PLANES:
        raise ValueError(f"plane is {request.plane!r}, not one of {', '.join(PLANES)}")
    try:
        volume, spacing, flags = _volume(data)
        limits = _percentiles(volume)
    except _errors() as error:
        raise named(error, "NIfTI") from error
    across = _ACROSS[request.plane]
    down, right = ((1, 0), (2, 0), (2, 1))[2 - across]
    scale = GreyScale(limits=limits)
    for index in wanted(request.frames, volume.shape[across]):
        cut = np.take(volume, index, axis=across).T[::-1, ::-1]
        check_size(*cut.shape)
        pixels, more = render(np.ascontiguousarray(cut), scale, request.rules)
        yield Frame(index, pixels, float(spacing[down] / spacing[right]), (*flags, *more))


def _volume(data: bytes) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64], tuple[str, ...]]:
    """The volume (x to the right, y to the front, z to the head), its spacing in mm, and flags."""
    try:
        import nibabel
    except ImportError as error:
        raise PixelError("decoder not installed", "NIfTI needs: pip install 'embedding-indexer[nifti]'") from error
    data = _inflated(data) if data[:2] == b"\x1f\x8b" else data
    kind = nibabel.Nifti2Image if data[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nibabel.Nifti1Image
    image = kind.from_bytes(data)
    shape = tuple(int(n) for n in image.shape)
    if len(shape) < 2 or min(shape) <= 0:
        raise PixelError("empty image", f"NIfTI of shape {shape}")
    if int(np.prod(shape[:3], dtype=object)) * 8 > MAX_INFLATED:
        raise PixelError("too many pixels", f"NIfTI of shape {shape}")
    if image.get_data_dtype().fields:
        raise PixelError("unsupported image", f"NIfTI of {image.get_data_dtype()}")
    flags = ("first volume of a series",) if int(np.prod(shape[3:], dtype=object)) > 1 else ()
    first = (slice(None),) * min(3, len(shape)) + (0,) * (len(shape) - 3)
    values = np.asarray(image.dataobj[first])
    if np.iscomplexobj(values):
        raise PixelError("unsupported image", "NIfTI of complex numbers")
    values = values[..., None] if values.ndim == 2 else values
    orientation = nibabel.io_orientation(image.affine)
    turned = nibabel.apply_orientation(values, orientation)
    zooms = np.ones(3)
    zooms[: len(shape[:3])] = np.abs(np.asarray(image.header.get_zooms(), np.float64)[:3])
    spacing = np.ones(3)
    spacing[orientation[:, 0].astype(int)] = np.where(zooms > 0, zooms, 1.0)
    return turned, spacing, flags


def _inflated(data: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    unpacked = unpacker.decompress(data, MAX_INFLATED)
    if unpacker.unconsumed_tail:
        raise PixelError("file too large", f"over {MAX_INFLATED:,} bytes unpacked")
    if not unpacker.eof:
        raise PixelError("truncated", "NIfTI: the gzip stream breaks off")
    return unpacked


def _errors() -> tuple[type[BaseException], ...]:
    """With nibabel's own, which have no base in common."""
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
