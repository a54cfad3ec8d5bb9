"""Stored images drawn for a page: read from their shard, decoded with a chosen window, as JPEG; kept in memory only."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image

from indexer.archive.reader import around, read_place
from indexer.archive.roots import named, remembered
from indexer.errors import InputError, ReadError
from indexer.pixels import decode_part
from indexer.pixels.window import parse_window
from indexer.search.exclude import key_rows
from indexer.store.rows import PLACE_COLUMNS, place_of
from indexer.store.table import EmbeddingStore, identity_of
from indexer.types import PixelSpec, Place, UInt8

SIDES = (32, 1024)
QUALITY = 90
SLIDE = "slide"  # the part of a tile that is its whole slide, with its place


@dataclass(frozen=True)
class Drawing:
    """What is to be drawn."""

    key: str
    side: int = 256  # pixels of the square
    window: str | None = None  # None: the one that was embedded with
    part: str | None = None  # another part of the same image, e.g. a neighbouring slice, or SLIDE

    def __post_init__(self) -> None:
        if not SIDES[0] <= self.side <= SIDES[1]:
            raise InputError(f"size must be {SIDES[0]} to {SIDES[1]} pixels.")


@dataclass(frozen=True)
class Found:
    """Where an image is, and the name of its drawing."""

    place: Place
    url: str
    content: str
    spec: PixelSpec
    part: str

    @property
    def etag(self) -> str:
        known = (self.content, self.spec, self.part, self.part == SLIDE and self.place)
        return f'"{hashlib.sha256(repr(known).encode()).hexdigest()[:32]}"'


def find(view: EmbeddingStore, url_of: Callable[[EmbeddingStore, str], str | None], drawing: Drawing) -> Found:
    """`url_of` gives the address of a shard. Raises RowNotFound, ReadError, WindowError."""
    window = drawing.window or view.spec.pixels.window
    parse_window(window)
    _, rows = view.take(key_rows(view, [drawing.key]), [*PLACE_COLUMNS, "content"])
    row = rows.to_pylist()[0]
    place = place_of(row)
    url = url_of(view, place.shard)
    if url is None:
        raise ReadError("the shard of this image is not in the ledger")
    spec = replace(view.spec.pixels, size=drawing.side, resize=drawing.side, fit="pad", window=window)
    return Found(place, url, row["content"], spec, place.part if drawing.part is None else drawing.part)


class PictureCache:
    """JPEGs by their ETag, the least recently used dropped first. Thread-safe; nothing is written to a disk."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._held = most_bytes, 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, etag: str) -> bytes | None:
        with self._lock:
            data = self._kept.get(etag)
            if data is not None:
                self._kept.move_to_end(etag)
            return data

    def put(self, etag: str, data: bytes) -> None:
        with self._lock:
            self._held += len(data) - len(self._kept.pop(etag, b""))
            self._kept[etag] = data
            while self._held > self._most and self._kept:
                self._held -= len(self._kept.popitem(last=False)[1])


def draw(view: EmbeddingStore, found: Found, pictures_from: tuple[str, ...]) -> bytes:
    """A JPEG (side, side), the whole image fitted in. Raises ReadError, PixelError."""
    roots = (*remembered(identity_of(view)), *named(pictures_from))
    whole = around(found.url, found.place, found.spec.size, roots=roots) if found.part == SLIDE else None
    if whole is not None:
        return _jpeg(whole)
    data = read_place(found.url, found.place, found.content, roots=roots)
    picture = decode_part(data, found.place.suffix, found.spec, found.part)
    return _jpeg(picture.pixels)


def _jpeg(pixels: UInt8) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
