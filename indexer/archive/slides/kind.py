"""Whole slides as shards: each tile with enough tissue is a sample, whose pixels are read by whoever decodes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from indexer.archive.slides.columns import SlideRows
from indexer.archive.slides.named import KIND, SlideSource, beside, source_in, stem
from indexer.archive.tables.named import TableOptions
from indexer.errors import InputError, NotAnArchive, PixelError, ReadError
from indexer.slides.coordinates import read_coordinates
from indexer.slides.levels import Cut, corners, cut, resolution
from indexer.slides.process import overview, slide_facts
from indexer.slides.tile import SUFFIX, Tile, named_tile
from indexer.slides.tissue import mask_png, overview_scale, shares, tissue
from indexer.types import Failure, Float64, Int64, Place, Sample, Shard, TileRule


class Slides:
    """Implements `kind.ShardKind`; found by `slides.find`, since what is a slide is the user's choice (--tile)."""

    name = KIND
    suffixes: tuple[str, ...] = ()

    def claims(self, address: str) -> bool:
        del address
        return False

    def left_out(self, path: Path, tables: TableOptions) -> str:
        del path, tables
        return ""

    def shards(self, address: str, *, hash_content: bool, tables: TableOptions, notes: list[str]) -> Iterator[Shard]:
        del address, hash_content, tables, notes
        return iter(())

    def samples(self, shard: Shard) -> Iterator[Sample | Failure]:
        """Tiles in blocks, or as a file of coordinates has them. Raises NotAnArchive where the slide gives none."""
        if shard.tiles is None:
            raise ReadError(f"{shard.url} is a slide, and its table does not say how slides are cut")
        source = source_in(shard.name, shard.identity)
        try:
            found, how, share = _tiles(shard, source, shard.tiles)
        except PixelError as error:
            raise NotAnArchive(error.detail or shard.url, error.reason) from error
        row = _row(shard, source)
        for (x, y), tissue_share in zip(found.tolist(), share.tolist(), strict=True):
            tile = Tile(shard.url, x, y, how.level, how.side, how.tile)
            facts = {"x": x, "y": y, "level": how.level, "mpp": how.mpp, "tissue": round(tissue_share, 4)}
            fields = {"slide": stem(source.key), **row}
            yield Sample(
                shard.name, f"{source.key}#{x},{y}", SUFFIX, b"", 0, tile.nbytes, fields, tile.member,
                facts=facts, late=tile,
            )  # fmt: skip

    def read_back(self, url: str, place: Place, roots: Sequence[str] | None) -> bytes:  # noqa: ARG002 - one file, which the caller checked
        try:
            return named_tile(url, place.member).read()
        except PixelError as error:
            raise ReadError(f"{place.member} in {url} cannot be read: {error}") from error


def _tiles(shard: Shard, source: SlideSource, rule: TileRule) -> tuple[Int64, Cut, Float64]:
    """(n, 2) corners, how they are read, and (n,) shares of tissue; keeps the mask. Raises PixelError where n is 0."""
    facts = slide_facts(shard.url)
    mpp0 = resolution(facts, source.mpp)
    if source.coords:
        found, how = read_coordinates(beside(shard.url, source.coords), facts, mpp0, rule)
    else:
        how = cut(facts, mpp0, rule)
        found = corners(facts, how)
    if not len(found):
        width, height = facts.sizes[0]
        detail = "its file of coordinates is empty" if source.coords else f"{width} x {height} pixels"
        raise PixelError("slide without tiles" if source.coords else "slide smaller than a tile", detail)
    scale = overview_scale(facts, mpp0)
    mask = tissue(overview(shard.url, facts, scale), rule.saturation)
    if shard.beside is not None:
        shard.beside(f"{source.key.replace('/', '%2F')}.tissue.png", mask_png(mask))
    share = shares(mask, scale, found, how.side0)
    if source.coords:
        return found, how, share
    enough = share >= rule.tissue
    if not enough.any():
        most = f"the tile with most has {share.max():.3f}, --tissue asks {rule.tissue:g}; --tissue 0 takes every tile"
        raise PixelError("no tissue", most)
    return found[enough], how, np.asarray(share[enough])


def _row(shard: Shard, source: SlideSource) -> dict[str, Any]:
    """The columns of the slide in the CSV file beside it. Raises ReadError."""
    if not source.csv:
        return {}
    path = Path(beside(shard.url, source.csv))
    try:
        rows = _rows(path, path.stat().st_mtime_ns)
    except (OSError, InputError) as error:
        raise ReadError(f"{path} cannot be read: {error}") from error
    return {name: value for name, value in rows.of(source.key).items() if name != "slide"}


@lru_cache(maxsize=8)
def _rows(path: Path, changed: int) -> SlideRows:
    """A table, read once for all slides."""
    del changed
    return SlideRows(path)
