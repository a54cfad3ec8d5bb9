"""Decodes the bytes of an image of any kind to its parts, each fitted to the encoder's square."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from types import TracebackType

from indexer.errors import PixelError
from indexer.memory.budget import DECODED
from indexer.pixels.announced import announced_bytes
from indexer.pixels.decoder_errors import quiet
from indexer.pixels.fit import square
from indexer.pixels.kinds import open_kind
from indexer.pixels.limits import check_bytes
from indexer.pixels.parts import Reader, Rendering, wanted
from indexer.pixels.sniff import other_format, sniff
from indexer.types import Part, Picture, PixelSpec

# First bytes of what is often named in place of an image
_ARCHIVES = {b"PK\x03\x04": "a zip archive, which `indexer index` reads", b"7z\xbc\xaf": "a 7z archive: unpack it"}


class OpenedImage:
    """An image whose header was read. A context manager, since it may hold a decoder process."""

    def __init__(self, reader: Reader, spec: PixelSpec, nbytes: int) -> None:
        """`nbytes` of DECODED are held until the end."""
        self._reader, self._spec, self._nbytes = reader, spec, nbytes
        self._flags: tuple[str, ...] = ()

    def __enter__(self) -> OpenedImage:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._reader.close()
        DECODED.give_back(self._nbytes)

    def parts(self) -> Sequence[Part]:
        """All parts in the file's order, from its header."""
        return self._reader.parts

    def wanted(self, frames: str, time: str) -> Iterator[Part]:
        """The parts that `--frames` (all, first, middle) and `--time` (first, all) select.

        Pictures have a flag where volumes are left out.
        """
        parts = self._reader.parts
        self._flags = ("first volume of a series",) if time == "first" and parts.in_volume < len(parts) else ()
        return (parts[position] for position in wanted(frames, time, parts))

    def part(self, name: str) -> Part:
        """The part with this name; "" and "0" both name the first. Raises PixelError where there is none."""
        return self._reader.parts[self._reader.parts.position(name)]

    def pictures(self, parts: Sequence[Part]) -> Iterator[Picture]:
        """These parts, windowed and fitted. The decoder works ahead, which is faster than a call of `pixels` for each.

        Raises PixelError; a damaged file may yield some parts first.
        """
        positions = [self._reader.parts.position(part.name) for part in parts]
        for part, raster in zip(parts, self._reader.rasters(positions), strict=True):
            yield Picture(part, square(raster.pixels, self._spec, raster.aspect), (*self._flags, *raster.flags))

    def pixels(self, part: Part) -> Picture:
        """One part, windowed and fitted. Raises PixelError."""
        (picture,) = self.pictures([part])
        return picture


def open_image(data: bytes, suffix: str, spec: PixelSpec) -> OpenedImage:
    """Read the header of an image.

    The kind is detected from the bytes, and from `suffix` (lower case, no dot) only where they are ambiguous. Raises
    PixelError where this is not a readable image, WindowError for a `spec.window` outside the documented forms.
    """
    rendering = Rendering(spec.window, spec.plane, fitted_to=spec)
    _ = rendering.rules  # an invalid window is an error in the options, not in this image
    check_bytes(len(data))
    quiet()
    kind = sniff(data, suffix)
    if kind:
        announced = announced_bytes(kind, data)
        nbytes = max(announced, len(data))
        DECODED.take(nbytes)
        try:
            return OpenedImage(open_kind(kind, data, rendering, announced), spec, nbytes)
        except BaseException:
            DECODED.give_back(nbytes)
            raise
    archive = next((words for magic, words in _ARCHIVES.items() if data.startswith(magic)), "")
    if archive:
        raise PixelError("archive, not an image", archive)
    unread = other_format(data)
    if unread:
        raise PixelError("unsupported image format", f"{unread}: convert it, e.g. to PNG or TIFF")
    raise PixelError("not an image", f"no image format begins with {data[:8].hex(' ')}")


def decode(data: bytes, suffix: str, spec: PixelSpec, *, frames: str = "all", time: str = "first") -> Iterator[Picture]:
    """The parts selected by `frames` (all, first, middle) in each volume selected by `time` (first, all).

    They are windowed and fitted to (size, size, 3) RGB.
    Equal bytes and spec give equal pixels in every thread. Raises as `open_image` and `OpenedImage.pictures` do.
    """
    for item in decode_missing(data, suffix, spec, frames=frames, time=time, stored=_never):
        assert isinstance(item, Picture)
        yield item


def decode_missing(
    data: bytes, suffix: str, spec: PixelSpec, *, frames: str, time: str, stored: Callable[[Part], bool]
) -> Iterator[Picture | Part]:
    """As `decode`, but a part for which `stored` is true is yielded undecoded."""
    with open_image(data, suffix, spec) as image:
        for known, run in groupby(image.wanted(frames, time), stored):
            parts = list(run)
            yield from parts if known else image.pictures(parts)


def _never(part: Part) -> bool:
    del part
    return False


def decode_part(data: bytes, suffix: str, spec: PixelSpec, name: str) -> Picture:
    """The part with this name. Raises as `decode` does, and PixelError where the image has no such part."""
    with open_image(data, suffix, spec) as image:
        return image.pixels(image.part(name))
