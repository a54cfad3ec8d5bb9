"""Maps kinds of images to their readers."""

from __future__ import annotations

from indexer.pixels.announced import announced_bytes
from indexer.pixels.isolated import IsolatedReader
from indexer.pixels.limits import PLAIN_BYTES
from indexer.pixels.parts import Reader, Rendering


def open_kind(kind: str, data: bytes, rendering: Rendering) -> Reader:
    """A reader for one of `sniff`'s kinds. Raises PixelError."""
    announced = 0 if rendering.isolated else announced_bytes(kind, data)
    if announced > PLAIN_BYTES:
        return IsolatedReader(kind, data, rendering, announced=announced)
    if kind == "jpeg":
        from indexer.pixels.jpeg.cpu import JpegReader

        return JpegReader(data, rendering)
    if kind == "dicom":
        from indexer.pixels.dicom.reader import DicomReader

        return DicomReader(data, rendering)
    if kind == "tiff":
        from indexer.pixels.tiff.reader import open_tiff

        return open_tiff(data, rendering)
    if kind == "nifti":
        from indexer.pixels.nifti import NiftiReader

        return NiftiReader(data, rendering)
    from indexer.pixels.pillow import PillowReader

    return PillowReader(data, kind, rendering)
