"""Expands the user's sources (folders, globs, brace patterns, URLs) into ordered shards, each with an identity."""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from indexer.addresses import is_remote, plain
from indexer.archive.buckets import BUCKETS
from indexer.archive.kind import Sources
from indexer.archive.kinds import ARCHIVES, TABLES, kind_of
from indexer.archive.remote.manifest import is_manifest, manifest_shards
from indexer.archive.remote.patterns import expanded
from indexer.archive.slides.find import slide_again
from indexer.archive.slides.named import MARK, is_slide
from indexer.archive.tables.named import DEFAULT, FLAGS, TableOptions, options_in
from indexer.archive.tar import remote_shard
from indexer.errors import InputError, ShardNotFound, sentence
from indexer.redact import former_name
from indexer.remote.objects import is_object
from indexer.types import Shard


def find_shards(sources: Sequence[str], *, hash_content: bool = False, tables: TableOptions = DEFAULT) -> Sources:
    """Expand sources. Each may be an archive or a table of `archive.kinds`, a folder of archives, a folder of images,
    a glob, a brace pattern, a URL (http:, or of another kind that webdataset opens), the same in an object store
    (s3:, gs:, az:), or `pipe:` and a command.

    With `hash_content`, the identity is a hash of the bytes instead of size and modification time.
    Raises ShardNotFound, InputError.
    """
    shards: dict[str, Shard] = {}
    notes: list[str] = []
    for source in sources:
        for shard in _expand(source, hash_content, tables, notes):
            if shard.name in shards and shards[shard.name].url != shard.url:
                raise InputError(
                    f"two addresses are both {shard.name} once passwords and signatures are left out of their names. "
                    "Give them different paths."
                )
            if shard.name in shards:
                notes.append(f"{shard.name} was named twice; it is read once")
            shards[shard.name] = shard
    if not shards:
        what = f" {'; '.join(notes)}." if notes else ""
        raise ShardNotFound(f"no shard and no image under {', '.join(sources) or 'nothing'}.{what}")
    if tables != DEFAULT and not any(shard.kind in TABLES for shard in shards.values()):
        given = " and ".join(flag for name, flag in FLAGS.items() if getattr(tables, name))
        raise InputError(f"{given}: none of {', '.join(sources)} is a table. Leave it out, or name a table.")
    return Sources(tuple(shards.values()), tuple(notes))


def find_again(
    urls: Mapping[str, str], identities: Mapping[str, str], *, hash_content: bool = False
) -> Iterator[Shard]:
    """The shards of a table's ledger as they are now, from name → address and name → identity.

    Tables are read, and slides cut, as they were then. A slide that is gone is left out.

    Raises ShardNotFound, InputError.
    """
    groups: dict[TableOptions, set[str]] = {}
    for name, url in urls.items():
        if is_slide(name):
            with suppress(OSError):
                yield slide_again(name, url, identities.get(name, ""), hash_content=hash_content)
            continue
        groups.setdefault(options_in(name, url), set()).add(url)
    for options, found in groups.items():
        yield from find_shards(sorted(found), hash_content=hash_content, tables=options).shards


def _expand(source: str, hash_content: bool, tables: TableOptions, notes: list[str]) -> Iterator[Shard]:
    source = plain(source)
    if is_remote(source):
        for url in _braces(source):
            for address, known in expanded(url, ARCHIVES) if is_object(url) else [(url, None)]:
                kind = kind_of(address)
                if known is not None and kind.name == "tar":
                    yield remote_shard(address, known, notes)
                else:
                    yield from kind.shards(address, hash_content=hash_content, tables=tables, notes=notes)
        return
    for pattern in [source] if Path(source).exists() else _braces(source):
        # Path.glob takes no absolute pattern
        found = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207
        paths = [pattern] if Path(pattern).exists() else found
        if not paths:
            raise ShardNotFound(f"nothing matches {pattern}. Give a folder, an archive, a glob in quotes, or a URL.")
        for path in paths:
            if is_manifest(path):
                yield from manifest_shards(path, notes)
                continue
            yield from kind_of(path).shards(path, hash_content=hash_content, tables=tables, notes=notes)


def _braces(pattern: str) -> list[str]:
    if "{" not in pattern:
        return [pattern]
    from braceexpand import UnbalancedBracesError, braceexpand

    try:
        return list(braceexpand(pattern))
    except UnbalancedBracesError as error:
        words = f"{pattern}: {sentence(error)}. A brace pattern looks like shards-{{0000..0099}}.tar."
        raise InputError(words) from error


def under_stored_names(shards: Sequence[Shard], stored: Collection[str]) -> list[Shard]:
    """These shards, named as in a table: an earlier version may have stored a remote shard under another name, and a
    slide keeps the key that it got from the folder that was named first.
    """
    slides = {name.rpartition(MARK)[0]: name for name in stored if is_slide(name)}
    found = []
    for shard in shards:
        if is_slide(shard.name):
            found.append(replace(shard, name=slides.get(shard.url, shard.name)))
            continue
        former = former_name(shard.url)
        takes_former = shard.name not in stored and former in stored
        found.append(replace(shard, name=former) if takes_former else shard)
    return found


def changed_words(shards: Sequence[Shard]) -> str:
    """A sentence that these shards changed, in terms of what the user named: files and folders, not buckets."""
    first = shards[0]
    if first.kind != "files":
        more = f" and {len(shards) - 1} more" if len(shards) > 1 else ""
        return f"{first.name}{more} changed since it was indexed"
    groups = sum(shard.url == first.url for shard in shards)
    more = f" (and {len(shards) - groups} other shards)" if len(shards) > groups else ""
    counted = "1 of the groups" if groups == 1 else f"{groups} of the groups"
    return (
        f"folder {first.url}{more}: files were added, changed or removed since it was indexed, in {counted} in which "
        f"its files are kept (up to {BUCKETS}, by file name)"
    )
