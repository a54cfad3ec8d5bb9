"""Maps kinds of images to their readers."""

from __future__ import annotations

from indexer.pixels.parts import Reader, Rendering


def open_kind(kind: str, data: bytes, rendering: Rendering) -> Reader:
    """A reader for one of `sniff`'s kinds, except JPEG. Raises PixelError."""
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
