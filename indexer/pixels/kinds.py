"""Which module reads which kind of image."""

from __future__ import annotations

from collections.abc import Iterator

from indexer.pixels.frames import Frame, FrameRequest


def frames_of(kind: str, data: bytes, request: FrameRequest) -> Iterator[Frame]:
    """The wanted frames of a file of one of `sniff`'s kinds but JPEG. Raises PixelError."""
    if kind == "dicom":
        from indexer.pixels.dicom.frames import dicom_frames

        return dicom_frames(data, request)
    if kind == "tiff":
        from indexer.pixels.tiff import tiff_frames

        return tiff_frames(data, request)
    if kind == "nifti":
        from indexer.pixels.nifti import nifti_frames

        return nifti_frames(data, request)
    from indexer.pixels.raster import raster_frames

    return raster_frames(data, kind, request)
