"""The child process of `process.py`: opens slides with OpenSlide and answers with facts, regions and overviews.

Of a slide's properties only numbers leave this process: labels and descriptions may hold names.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from indexer.errors import PixelError
from indexer.isolation.program import limit_cpu, read_request, run, send
from indexer.types import UInt8

HANDLES = 2  # slides open at once
CACHE_BYTES = 32 << 20  # of decoded tiles, for each slide
STRIP_PIXELS = 2 << 20  # of a level read at once for an overview
WHITE = (255, 255, 255)

_handles: OrderedDict[tuple[str, int, int], Any] = OrderedDict()  # path, size, time of change → OpenSlide


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    send(answers, {"ready": True})
    while request := read_request(requests):
        facts, _ = request
        send(answers, {"received": True})  # after this a crash is caused by the file
        limit_cpu(facts["cpu_seconds"])
        try:
            answer, pixels = _ANSWERS[facts["ask"]](facts)
        except PixelError as error:
            send(answers, {"reason": error.reason, "detail": error.detail})
        else:
            send(answers, answer if pixels is None else {"shape": pixels.shape} | answer, pixels)


def _facts(request: dict[str, Any]) -> tuple[dict[str, Any], None]:
    slide = _opened(request["path"])
    texts = (slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy")
    return {
        "sizes": slide.level_dimensions,
        "downsamples": slide.level_downsamples,
        "mpp": [_number(text) for text in texts],
        "series": slide.properties.get("dicom.SeriesInstanceUID", ""),
    }, None


def _region(request: dict[str, Any]) -> tuple[dict[str, Any], UInt8]:
    x, y, level, side, tile = (request[name] for name in ("x", "y", "level", "side", "tile"))
    picture = _read(request["path"], (x, y), level, (side, side))
    if side != tile:
        from PIL.Image import Resampling

        picture = picture.resize((tile, tile), Resampling.BICUBIC)
    return {}, np.asarray(picture)


def _overview(request: dict[str, Any]) -> tuple[dict[str, Any], UInt8]:
    """A level averaged over squares of `scale` pixels of level 0; the last ones may be partly outside."""
    from PIL.Image import Resampling

    path, level, scale = request["path"], request["level"], request["scale"]
    slide = _opened(path)
    (width, height), down = slide.level_dimensions[level], slide.level_downsamples[level]
    step = scale / down  # pixels of the level a pixel of the overview
    columns, rows = (max(1, int(np.ceil(side / step - 1e-6))) for side in (width, height))
    out = np.empty((rows, columns, 3), np.uint8)
    strip = max(1, int(STRIP_PIXELS / width / step))
    for first in range(0, rows, strip):
        last = min(first + strip, rows)
        top, bottom = int(first * step), min(height, int(np.ceil(last * step)))
        picture = _read(path, (0, round(top * down)), level, (width, bottom - top))
        box = (0, first * step - top, min(width, columns * step), min(bottom - top, last * step - top))
        out[first:last] = np.asarray(picture.resize((columns, last - first), Resampling.BOX, box))
    return {}, out


def _coordinates(request: dict[str, Any]) -> tuple[dict[str, Any], UInt8]:
    """The data set `coords` (n, 2) of an HDF5 file as the bytes of int64, and its numeric attributes."""
    import h5py

    try:
        with h5py.File(request["path"], "r") as file:
            found = file.get("coords")
            if not isinstance(found, h5py.Dataset) or found.ndim != 2 or found.shape[1] != 2:
                raise PixelError("bad coordinates", "no data set `coords` of two columns")
            if found.dtype.kind not in "iuf" or found.shape[0] > request["most"]:
                raise PixelError("bad coordinates", f"`coords` is {found.dtype} of {found.shape[0]:,} rows")
            values = np.ascontiguousarray(found[:], np.int64)
            given = {name: np.asarray(found.attrs[name]) for name in request["names"] if name in found.attrs}
    except (OSError, RuntimeError, TypeError, ValueError, KeyError) as error:
        raise PixelError("bad coordinates", f"{type(error).__name__}: {error}"[:300]) from error
    numbers = {
        name: float(value.ravel()[0]) for name, value in given.items() if value.dtype.kind in "iuf" and value.size
    }
    finite = {name: number for name, number in numbers.items() if math.isfinite(number)}
    return {"attributes": finite}, values.view(np.uint8)


_ANSWERS = {"facts": _facts, "region": _region, "overview": _overview, "coordinates": _coordinates}


def _opened(path: str) -> Any:
    """Raises PixelError."""
    import openslide

    try:
        stat = Path(path).stat()
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key in _handles:
            _handles.move_to_end(key)
            return _handles[key]
        slide = openslide.OpenSlide(path)
        slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise PixelError("not a slide", "OpenSlide knows no format that begins so, or the file is cut") from error
    except (openslide.OpenSlideError, OSError) as error:
        raise PixelError("slide cannot be opened", _words(error)) from error
    _handles[key] = slide
    while len(_handles) > HANDLES:
        _handles.popitem(last=False)[1].close()
    return slide


def _read(path: str, at: tuple[int, int], level: int, size: tuple[int, int]) -> Any:
    """A region as a Pillow image, transparent parts white. Raises PixelError."""
    import openslide
    from PIL import Image

    slide = _opened(path)
    try:
        found = slide.read_region(at, level, size)
    except openslide.OpenSlideError as error:
        for key in [key for key in _handles if key[0] == path]:
            _handles.pop(key).close()  # after an error a handle answers with that error alone
        raise PixelError("unreadable region of a slide", _words(error)) from error
    if found.getextrema()[3][0] == 255:
        return found.convert("RGB")
    ground = Image.new("RGB", found.size, WHITE)
    ground.paste(found, mask=found.getchannel("A"))
    return ground


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


if __name__ == "__main__":
    run(serve)
