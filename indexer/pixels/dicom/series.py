"""Reads a DICOM series that `indexer pack --series` made one image: an uncompressed zip of its single files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

from indexer.errors import PixelError
from indexer.pixels.decoder_errors import DECODER_ERRORS, dicom_errors, named
from indexer.pixels.dicom.facts import FACT_TAGS, FrameFacts
from indexer.pixels.dicom.parse import parsed
from indexer.pixels.dicom.reader import DicomReader
from indexer.pixels.limits import MAX_INFLATED
from indexer.pixels.parts import Facts, Numbered, Raster, Rendering

_MOST_SLICES = 100_000
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date of a zip, so that equal files give equal bytes


class SeriesReader:
    """Reader of a series; its parts are the slices, by their position along the normal, then in the zip's order.

    Raises PixelError where one of the headers cannot be read.
    """

    def __init__(self, data: bytes, rendering: Rendering) -> None:
        self._data, self._rendering = data, rendering
        members = _members(data)
        facts = [_facts(data[start:stop], name) for name, start, stop in members]
        order = sorted(range(len(facts)), key=lambda n: (str(facts[n].get("orientation", "")), _z(facts[n])))
        self._slices = [members[n] for n in order]
        self.parts = Numbered(len(order), lambda position: facts[order[position]])

    def rasters(self, positions: Sequence[int]) -> Iterator[Raster]:
        for position in positions:
            name, start, stop = self._slices[position]
            try:
                reader = DicomReader(self._data[start:stop], self._rendering)
                try:
                    (raster,) = reader.rasters([0])
                finally:
                    reader.close()
            except PixelError as error:
                raise PixelError(error.reason, f"slice {name}: {error.detail}") from error
            yield raster

    def close(self) -> None:
        pass


def packed_series(slices: Sequence[bytes]) -> bytes:
    """The zip of these DICOM files, in this order. The same files give the same bytes."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for number, data in enumerate(slices):
            archive.writestr(zipfile.ZipInfo(f"{number:05d}.dcm", _EPOCH), data)
    return out.getvalue()


def _members(data: bytes) -> list[tuple[str, int, int]]:
    """(name, start, stop) of each file in the zip."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
        if len(infos) > _MOST_SLICES:
            raise PixelError("too many pixels", f"a series of {len(infos):,} files")
        if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in infos):
            raise PixelError("unsupported image", "a series is a zip without compression: indexer pack --series")
        return [(info.filename, *_place(data, info)) for info in infos]
    except (zipfile.BadZipFile, *DECODER_ERRORS) as error:
        raise named(error, "series") from error


def _place(data: bytes, info: zipfile.ZipInfo) -> tuple[int, int]:
    """APPNOTE 4.3.7: a local header of 30 bytes, the name, the extra field, then the bytes."""
    head = data[info.header_offset : info.header_offset + 30]
    start = info.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    if head[:4] != b"PK\x03\x04" or start + info.file_size > len(data):
        raise PixelError("truncated", f"series: {info.filename} is truncated")
    return start, start + info.file_size


def _facts(data: bytes, name: str) -> Facts:
    try:
        header: Any = parsed(BytesIO(data), limit=MAX_INFLATED, stop_before_pixels=True, specific_tags=list(FACT_TAGS))
        frames = int(getattr(header, "NumberOfFrames", None) or 1)
    except dicom_errors() as error:
        raise named(error, f"slice {name}") from error
    if frames != 1:
        raise PixelError("unsupported image", f"slice {name} has {frames} frames: index it as an image of its own")
    return FrameFacts(header, 1)(0)


def _z(facts: Facts) -> float:
    return float(facts.get("z", "inf"))
