"""Maps kinds of images to their readers."""

from __future__ import annotations

from indexer.pixels.isolated import IsolatedReader
from indexer.pixels.limits import PLAIN_BYTES
from indexer.pixels.parts import Reader, Rendering


def open_kind(kind: str, data: bytes, rendering: Rendering, announced: int = 0) -> Reader:
    """A reader for one of `sniff`'s kinds, of a file that announces so many bytes (`announced_bytes`) unless this is a
    decoder process. Raises PixelError.
    """
    if announced > PLAIN_BYTES:
        return IsolatedReader(kind, data, rendering, announced=announced)
    if kind == "jpeg":
        from indexer.pixels.jpeg.cpu import JpegReader

        return JpegReader(data, rendering)
    if kind == "dicom":
        from indexer.pixels.dicom.reader import DicomReader

        return DicomReader(data, rendering)
    if kind == "series":
        from indexer.pixels.dicom.series import SeriesReader

        return SeriesReader(data, rendering)
    if kind == "tiff":
        from indexer.pixels.tiff.reader import open_tiff

        return open_tiff(data, rendering)
    if kind in ("nifti", "nrrd", "metaimage"):
        from indexer.pixels.volumes.nifti import VolumeReader

        return VolumeReader(kind, data, rendering)
    from indexer.pixels.pillow import PillowReader

    if kind == "png":
        from indexer.pixels.png.plain import PlainPngReader, plain_png

        if content := plain_png(data):
            return PlainPngReader(data, content, rendering)
    reader = PillowReader(data, kind, rendering)
    if reader.nbytes > announced and not rendering.isolated:  # Pillow found another size than `announced_bytes`
        reader.close()
        return IsolatedReader(kind, data, rendering, announced=max(reader.nbytes, PLAIN_BYTES + 1))
    return reader
