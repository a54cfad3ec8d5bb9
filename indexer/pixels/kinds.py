"""Which module reads which kind of image."""

from __future__ import annotations

from indexer.pixels.parts import Reader, Rendering


def open_kind(kind: str, data: bytes, rendering: Rendering) -> Reader:
    """The open file of one of `sniff`'s kinds but JPEG. Raises PixelError."""
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
