"""Decodes the bytes of an image of any kind to its parts, each fitted to the encoder's square."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from types import TracebackType

from indexer.errors import PixelError, WindowError
from indexer.memory.budget import DECODED
from indexer.pixels.announced import announced_bytes
from indexer.pixels.decoder_errors import quiet
from indexer.pixels.fit import square
from indexer.pixels.kinds import open_kind
from indexer.pixels.limits import check_bytes
from indexer.pixels.parts import Reader, Rendering, wanted
from indexer.pixels.sniff import other_format, sniff
from indexer.pixels.volumes.neighbours import Neighbouring
from indexer.types import Part, Picture, PixelSpec

# First bytes of what is often named in place of an image
_ARCHIVES = {b"PK\x03\x04": "a zip archive, which `indexer index` reads", b"7z\xbc\xaf": "a 7z archive: unpack it"}


class OpenedImage:
    """An image whose header was read. A context manager, since it may hold a decoder process."""

    def __init__(self, reader: Reader, kind: str, spec: PixelSpec, nbytes: int) -> None:
        """`kind`: `sniff`'s. `nbytes` of DECODED are held until the end."""
        self._reader, self._kind, self._spec, self._nbytes = reader, kind, spec, nbytes
        self._flags: tuple[str, ...] = ()
        self._neighbouring: Neighbouring | None = None

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

    def is_slice_of_series(self) -> bool:
        """Whether this is a DICOM file of one slice, by its position in the patient."""
        parts = self._reader.parts
        return self._kind == "dicom" and len(parts) == 1 and "z" in parts[0].facts

    def pictures(self, parts: Sequence[Part]) -> Iterator[Picture]:
        """These parts, windowed and fitted. The decoder works ahead, which is faster than a call of `pixels` for each.

        Raises PixelError; a damaged file may yield some parts first.
        """
        positions = [self._reader.parts.position(part.name) for part in parts]
        if self._spec.channels == 3:
            self._neighbouring = self._neighbouring or Neighbouring(self._reader, self._spec)
            for part, (pixels, flags) in zip(parts, self._neighbouring.pictures(positions), strict=True):
                yield Picture(part, pixels, (*self._flags, *flags))
            return
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
    if len(rendering.rules) == 3 and spec.channels == 3:  # an error in the options, not in this image
        raise WindowError("three windows fill the three channels, as three slices do: give one with --channels 3.")
    check_bytes(len(data))
    quiet()
    kind = sniff(data, suffix)
    if kind:
        announced = announced_bytes(kind, data)
        nbytes = max(announced, len(data))
        DECODED.take(nbytes)
        try:
            return OpenedImage(open_kind(kind, data, rendering, announced), kind, spec, nbytes)
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
    with open_image(data, suffix, spec) as image:
        yield from image.pictures(list(image.wanted(frames, time)))


def decode_missing(
    data: bytes, suffix: str, spec: PixelSpec, *, frames: str, time: str, stored: Callable[[Part], bool]
) -> Iterator[Picture | Part]:
    """As `decode`, but a part for which `stored` is true is yielded undecoded.

    Where neighbours are wanted, raises PixelError for one slice of a series, whose neighbours are in other files.
    """
    with open_image(data, suffix, spec) as image:
        if spec.channels == 3 and image.is_slice_of_series():
            raise PixelError("slice without its series", "pack the series as one image: indexer pack --series")
        for known, run in groupby(image.wanted(frames, time), stored):
            parts = list(run)
            yield from parts if known else image.pictures(parts)


def decode_part(data: bytes, suffix: str, spec: PixelSpec, name: str) -> Picture:
    """The part with this name, to be looked at: without its neighbours, whatever `spec.channels` is.

    Raises as `decode` does, and PixelError where the image has no such part.
    """
    with open_image(data, suffix, replace(spec, channels=1)) as image:
        return image.pixels(image.part(name))
