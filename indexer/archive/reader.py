"""Reads the samples of a shard, and reads back one image's bytes from its place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from indexer.addresses import DAMAGE, is_remote
from indexer.archive.kinds import KINDS, SLIDES, TABLES, kind_of
from indexer.archive.roots import is_below
from indexer.archive.slides.named import key_in
from indexer.errors import InputError, PixelError, ReadError
from indexer.redact import PIPE, can_be_reopened, stored_address
from indexer.remote.stream import is_web
from indexer.slides.place import in_its_slide
from indexer.slides.tile import SUFFIX, named_tile
from indexer.types import Failure, Place, Sample, Shard, UInt8


def read_shard(shard: Shard) -> Iterator[Sample | Failure]:
    """Samples in the shard's order; a Failure for each that has no usable image or metadata.

    Yields whole samples only: in a truncated archive the incomplete last one is not yielded, and CutShard is raised
    after the others. Raises NotAnArchive where there is no archive at all, ReadError where it cannot be opened.
    """
    samples = next(kind for kind in KINDS if kind.name == shard.kind).samples(shard)
    prefix = key_prefix(shard)
    return map(lambda item: replace(item, key=prefix + item.key), samples) if prefix else samples


def key_prefix(shard: Shard) -> str:
    """The last parts of the archive's own path that `KeyRule.prefix` puts before its keys, with a slash at the end.

    The path is the one under which the archive was first indexed, so that an archive that moved keeps its keys.
    Raises InputError for a command, which has no path.
    """
    if not shard.keys.prefix:
        return ""
    if shard.name.startswith(PIPE):
        raise InputError(
            f"{shard.name} is a command and has no path, as --prefix needs one. Index it without --prefix."
        )
    path = shard.name.rpartition("#")[0] if shard.kind in ("files", "objects", *TABLES) else shard.name
    path = path.partition("://")[2] or path
    if shard.kind == SLIDES.name:  # the key of a slide is its path below the folder that was named
        path = shard.url.removesuffix(key_in(shard.name))
    suffix = next((s for kind in KINDS for s in kind.suffixes if path.lower().endswith(s)), "")
    parts = [part for part in path[: len(path) - len(suffix)].split("/") if part]
    return "".join(f"{part}/" for part in parts[-shard.keys.prefix :])


def read_place(url: str, place: Place, content: str, *, roots: Sequence[str] | None = None) -> bytes:
    """An image's bytes, read from the place where they were when it was embedded. `url` and `place` are a table's.

    A stored command is never run. With `roots`, only addresses below them are read (`archive.roots`); without, the
    caller trusts the table. Raises ReadError, also where the sha256 of the bytes is not `content`.
    """
    address = _with_secrets(url, roots or ())
    if address == url:
        refuse_address(url, roots)
    try:
        kind = SLIDES if place.suffix == SUFFIX else kind_of(address)
        data = kind.read_back(address, place, roots)
    except DAMAGE as error:
        raise ReadError(f"{place.member} in {url} cannot be read back: {error}") from error
    if hashlib.sha256(data).hexdigest() != content:
        raise ReadError(f"{place.member} in {url} is no longer the image that was indexed: its bytes differ")
    return data


def around(url: str, place: Place, side: int, *, roots: Sequence[str] | None = None) -> UInt8 | None:
    """(side, side, 3): the slide of a tile, with the tile's place; None for other images. Raises ReadError."""
    if place.suffix != SUFFIX:
        return None
    refuse_address(url, roots)
    try:
        return in_its_slide(named_tile(url, place.member), side)
    except (OSError, PixelError) as error:
        raise ReadError(f"{url} cannot be shown: {error}") from error


def _with_secrets(url: str, roots: Sequence[str]) -> str:
    """The root that the user named with a login or signature which `url` was stored without, or `url` itself."""
    return next((root for root in roots if root != url and is_web(root) and stored_address(root) == url), url)


def refuse_address(url: str, roots: Sequence[str] | None) -> None:
    """Raise ReadError for a table's address that must not be opened: a command, one stored without its query, or one
    outside `roots`.
    """
    if url.startswith(PIPE):
        raise ReadError(f"{stored_address(url)} is a command, and a command that a table names is never run")
    if not can_be_reopened(url):
        raise ReadError(f"the address of {url} was not stored: it held a query. Name it whole with --pictures-from")
    if roots is not None and not is_below(url, roots):
        where = "URL" if is_remote(url) else "folder"
        raise ReadError(
            f"{stored_address(url)} is below no {where} that you indexed this table from on this machine: "
            f"name it with --pictures-from"
        )
