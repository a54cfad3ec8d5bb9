"""From the files found to keys and shards: the same files give the same plan, in whatever order they were found."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from indexer.pack.secret import KeyedHash
from indexer.pack.source import Scanned

FORMAT = 1  # of a shard's content: another number makes another plan


@dataclass(frozen=True)
class Entry:
    """One image to be packed."""

    path: str
    nbytes: int
    modified: int
    kind: str
    suffix: str
    key: str
    row: Mapping[str, Any]  # the user's own columns
    same_instance_as: str = ""  # the key of the first file with this SOPInstanceUID


@dataclass(frozen=True)
class ShardPlan:
    """What one shard will hold."""

    name: str
    entries: tuple[Entry, ...]
    digest: str  # over everything that its bytes depend on


def entries_of(scanned: Sequence[Scanned], rows: Mapping[str, Mapping[str, Any]], keyed: KeyedHash) -> list[Entry]:
    """Entries in path order, each with a key of its own.

    A DICOM file's key is the keyed hash of its SOPInstanceUID (paths of archives carry names), or of its path where
    it has none. Another file's key is its path without the suffix, or with it where two files would share it.
    """
    entries: list[Entry] = []
    taken: dict[str, str] = {}  # key → path
    first_of: dict[str, str] = {}  # SOPInstanceUID → key
    stems = Counter(stem_of(item) for item in scanned if not is_dicom(item))
    for item in scanned:
        key = _key(item, stems, keyed)
        number = 1
        while key in taken:
            number += 1
            key = f"{_key(item, stems, keyed)}-{number}"
        taken[key] = item.found.path
        same = first_of.setdefault(item.instance, key) if item.instance else key
        entries.append(
            Entry(
                item.found.path,
                item.found.nbytes,
                item.found.modified,
                item.kind,
                item.suffix,
                key,
                rows.get(item.found.path, {}),
                "" if same == key else same,
            )
        )
    return entries


def is_dicom(item: Scanned) -> bool:
    """Also a file that only calls itself one: its path is as private as its neighbours'."""
    return item.kind == "dicom" or item.suffix in ("dcm", "dicom")


def stem_of(item: Scanned) -> str:
    """The path without its suffix, made fit for a member's name."""
    path, ending = item.found.path, "." + item.suffix
    return safe(path[: -len(ending)] if path.lower().endswith(ending) else path)


def _key(item: Scanned, stems: Mapping[str, int], keyed: KeyedHash) -> str:
    if item.instance:
        return keyed("instance", item.instance)
    if is_dicom(item):
        return keyed("path", item.found.path)
    stem = stem_of(item)
    return stem if stems[stem] == 1 else safe(item.found.path)


def safe(path: str) -> str:
    """A path as a tar member's name: every script survives; %, control characters, backslashes and bytes that are no
    UTF-8 are escaped as in URLs, and so is a part that would lead out of a folder.
    """
    parts = []
    for part in path.split("/"):
        escaped = "".join(_escape(char) for char in part)
        parts.append("%2E%2E" if escaped == ".." else "%2E" if escaped == "." else escaped)
    return "/".join(part for part in parts if part)


def _escape(char: str) -> str:
    if char in "%\\" or not char.isprintable():
        raw = "\udc80" <= char <= "\udcff"  # a byte of the name that is no UTF-8 (PEP 383)
        return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogateescape" if raw else "surrogatepass"))
    return char


def shards_of(entries: Sequence[Entry], max_bytes: int, max_files: int, facts: str) -> list[ShardPlan]:
    """Cut the entries, in order, into shards of at most `max_files` that close at `max_bytes`."""
    shards: list[ShardPlan] = []
    held: list[Entry] = []
    nbytes = 0
    for entry in entries:
        if held and (nbytes + entry.nbytes > max_bytes or len(held) >= max_files):
            shards.append(_shard(len(shards), held, facts))
            held, nbytes = [], 0
        held.append(entry)
        nbytes += entry.nbytes
    if held:
        shards.append(_shard(len(shards), held, facts))
    return shards


def _shard(number: int, entries: Sequence[Entry], facts: str) -> ShardPlan:
    digest = hashlib.sha256(f"{FORMAT}\0{facts}".encode())
    for e in entries:
        line = [e.path, e.nbytes, e.modified, e.suffix, e.key, dict(e.row)]
        digest.update(json.dumps(line, sort_keys=True).encode("utf-8", "surrogateescape"))
    return ShardPlan(f"shard-{number:06d}.tar", tuple(entries), digest.hexdigest())
