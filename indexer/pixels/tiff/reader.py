"""Reads TIFF: selects the pages and planes that are images, and the reader of each.

| property | source | read by |
|---|---|---|
| parts | pages but reduced copies (NewSubfileType bit 0, SubfileType 2), masks; a slide's first alone | tifffile |
| planes of one page | ImageDepth; ImageJ's and tifffile's stacks: planes after the first one's bytes | tifffile |
| byte order, depth, sign, predictor, planes of samples | BitsPerSample, SampleFormat, Predictor, ... | tiff.values |
| polarity, palette, colour model, alpha | PhotometricInterpretation, ColorMap, ExtraSamples | tiff.colour |
| JPEG, CCITT in a page, subsampled YCbCr | 1 and 8 bits only | Pillow |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from indexer.errors import PixelError
from indexer.pixels.decoder_errors import DECODER_ERRORS, named
from indexer.pixels.isolated import IsolatedReader
from indexer.pixels.jpeg.cpu import orient
from indexer.pixels.limits import check_size
from indexer.pixels.parts import Facts, Numbered, Raster, Reader, Rendering
from indexer.pixels.pillow import PillowReader
from indexer.pixels.tiff.colour import shown
from indexer.pixels.tiff.fields import MASK, YCBCR, orientation, refuse_unread
from indexer.pixels.tiff.unpack import BYTEWISE, NONE, PACKBITS
from indexer.pixels.tiff.values import page_values

_YCBCR_SUBSAMPLING = 530
_REDUCED, _TRANSPARENCY_MASK = 1, 4  # bits of NewSubfileType
_OF_PICTURES = (2, 3, 4, 6, 7)  # compressions that Pillow's libtiff decodes: CCITT, JPEG
DOUBTFUL_PREDICTOR = {  # TIFF 6.0 has no predictor for them
    NONE: "predictor without compression ignored",  # as in libtiff; tifffile writes none
    PACKBITS: "predictor with PackBits undone",  # tifffile writes it, libtiff ignores it
}
MAX_PLANES = 1_000_000


@dataclass(frozen=True)
class _Plane:
    """One image: a page, or one plane of a page."""

    page: Any  # tifffile's
    plane: int = 0
    planes: int = 1
    shift: int = 0  # bytes from the page's data to the plane's, where the planes follow each other in the file


def open_tiff(data: bytes, rendering: Rendering) -> Reader:
    """Open a TIFF in a child process: damaged directories can make tifffile loop endlessly and crash libtiff."""
    return TiffReader(data, rendering) if rendering.isolated else IsolatedReader("tiff", data, rendering)


class TiffReader:
    """Reader of the images of a TIFF. Raises PixelError."""

    def __init__(self, data: bytes, rendering: Rendering) -> None:
        from tifffile import TiffFile

        self._data, self._rendering = data, rendering
        try:
            self._file = TiffFile(BytesIO(data))
            self._planes = [plane for page in _pages(self._file) for plane in _planes(page, self._file, len(data))]
        except DECODER_ERRORS as error:
            raise named(error, "TIFF") from error
        self.parts = Numbered(len(self._planes), self._facts)
        self._pillow: PillowReader | None = None

    def rasters(self, positions: Sequence[int]) -> Iterator[Raster]:
        for position in positions:
            plane = self._planes[position]
            try:
                refuse_unread(plane.page, self._data)
                check_size(int(plane.page.imagelength), int(plane.page.imagewidth))
                raster = self._ours(plane) if _is_ours(plane.page) else self._by_pillow(plane.page)
            except DECODER_ERRORS as error:
                raise named(error, "TIFF") from error
            yield raster

    def close(self) -> None:
        self._file.close()

    def _facts(self, position: int) -> Facts:
        plane = self._planes[position]
        facts: dict[str, int] = {"page": plane.page.index} if len(self._planes) > 1 else {}
        return facts | ({"plane": plane.plane} if plane.planes > 1 else {})

    def _ours(self, plane: _Plane) -> Raster:
        page = plane.page
        volume = page_values(page, self._data, plane.shift)
        values = volume[plane.plane if plane.planes > 1 and not plane.shift and len(volume) > 1 else 0]
        pixels, flags = shown(values, page, self._rendering.rules)
        if int(page.predictor) != 1 and int(page.compression) in (NONE, PACKBITS):
            flags = (*flags, DOUBTFUL_PREDICTOR[int(page.compression)])
        turn, unread = orientation(page, self._data)
        return Raster(orient(pixels, turn), flags=(*flags, *unread))

    def _by_pillow(self, page: Any) -> Raster:
        if int(page.compression) not in _OF_PICTURES and int(page.compression) not in BYTEWISE:
            raise PixelError("unsupported TIFF", f"compression {int(page.compression)}")
        if page.bitspersample not in (1, 8):
            raise PixelError(
                "unsupported TIFF", f"{page.bitspersample} bits a sample in compression {int(page.compression)}"
            )
        if page.parent.is_bigtiff and page.parent.byteorder == ">":
            raise PixelError("unsupported TIFF", f"compression {int(page.compression)} in a big-endian BigTIFF")
        if self._pillow is None:
            self._pillow = PillowReader(self._data, "tiff", self._rendering)
        (raster,) = self._pillow.rasters([page.index])
        return raster


def _is_ours(page: Any) -> bool:
    if int(page.compression) not in BYTEWISE:
        return False
    if int(page.photometric) != YCBCR:
        return True
    tag = page.tags.get(_YCBCR_SUBSAMPLING)  # (2, 2) where it is missing
    return tag is not None and tuple(tag.value) == (1, 1)


def _pages(file: Any) -> list[Any]:
    """The pages with images of their own; of a slide, the one of full resolution.

    A slide is an Aperio or Hamamatsu file, or a TIFF whose first page is stored in tiles and larger than each other
    one, whatever their compression and marks: the others are a pyramid, a thumbnail, a macro picture, or a label with
    names on it.
    """
    if file.is_svs or file.is_ndpi:
        return [file.series[0].keyframe]
    first, *others = [page for page in file.pages if not _is_copy(page)] or [None]
    if first is None:
        return []
    if others and first.is_tiled and all(_area(page) < _area(first) for page in others):
        return [first]
    return [first, *others]


def _area(page: Any) -> int:
    return int(page.imagelength) * int(page.imagewidth)


def _is_copy(page: Any) -> bool:
    subfile = int(getattr(page, "subfiletype", 0))
    return bool(subfile & (_REDUCED | _TRANSPARENCY_MASK)) or int(getattr(page, "photometric", 1)) == MASK


def _planes(page: Any, file: Any, nbytes: int) -> list[_Plane]:
    depth = int(getattr(page, "imagedepth", 1))
    if depth > 1:
        if depth > MAX_PLANES:
            raise PixelError("corrupt image", f"TIFF: {depth:,} planes in one page")
        return [_Plane(page, plane, depth) for plane in range(depth)]
    count = _following(page, file)
    if count == 1:
        return [_Plane(page)]
    size = page.nbytes
    end = page.dataoffsets[0] + count * size
    if size <= 0 or end > nbytes:
        raise PixelError("truncated", f"TIFF: {count} planes announced in {nbytes:,} bytes")
    return [_Plane(page, plane, count, plane * size) for plane in range(count)]


def _following(page: Any, file: Any) -> int:
    """The number of contiguous planes at the only page's data, as ImageJ and tifffile write large stacks."""
    if not (file.is_imagej or file.is_shaped) or len(file.pages) != 1:
        return 1
    series = file.series[0]
    if not series.is_truncated or not page.is_contiguous:
        return 1
    return max(1, int(series.size // page.size))
