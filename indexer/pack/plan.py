"""Assigns keys and shards to the files. The plan depends on the files only, not on the order of the listing."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from indexer.pack.catalogue import Catalogue
from indexer.pack.headers.secret import KeyedHash
from indexer.pack.source import Scanned
from indexer.types import SERIES, KeyRule

_ESCAPED = re.compile(r"[%\\]|//|(^|/)\.{0,2}(/|$)")  # what `safe` changes in a printable path
FORMAT = 1  # of a shard's content; part of the plan's digest

Rows = Mapping[str, Mapping[str, Any]]  # path of a file → the columns of the user's table


@dataclass(frozen=True)
class Entry:
    """One image to pack."""

    path: str
    nbytes: int
    modified: int
    kind: str
    suffix: str
    key: str
    row: Mapping[str, Any]  # the columns of the user's table
    slices: tuple[Entry, ...] = ()  # the files of a series that is one image, this one among them


@dataclass(frozen=True)
class ShardPlan:
    """The files of one shard."""

    name: str
    first: str  # path; the shard holds all kept files from this one
    last: str  # to this one, inclusive
    digest: str  # of everything that determines the shard's bytes


def set_keys(catalogue: Catalogue, keyed: KeyedHash, *, split: str = KeyRule.split) -> None:
    """Assign a unique key to each image to pack, in path order.

    The key of a series that is one image is the keyed hash of its SeriesInstanceUID. A DICOM file's key is the keyed
    hash of its SOPInstanceUID, since paths may contain names, or of its path where it has none. Another file's key is
    its path without the suffix, or with it where two files would share the key. With `split` first-dot no last part of
    a key holds a dot: it is written %2E, so that webdataset, which cuts a member's name at its first dot, reads the
    same samples.
    """
    catalogue.index_headers()
    with catalogue.transaction():
        for item, _, _ in catalogue.kept():
            key = _key(item, catalogue, keyed)
            if split == "first-dot":
                folder, slash, last = key.rpartition("/")
                key = f"{folder}{slash}{last.replace('.', '%2E')}"
            wanted = key
            number = 1
            while catalogue.key_is_taken(key):
                number += 1
                key = f"{wanted}-{number}"
            first = catalogue.first_of_instance(item.instance) if item.instance else ""
            catalogue.set_key(item.found.path, key, first)


def stem_of(item: Scanned) -> str | None:
    """The path without the suffix, which is the key of a file that is not DICOM if no other file has the same."""
    if is_dicom(item):
        return None
    path, ending = item.found.path, "." + item.suffix
    return safe(path[: -len(ending)] if path.lower().endswith(ending) else path)


def entries(catalogue: Catalogue, rows: Rows, plan: ShardPlan | None = None) -> Iterator[Entry]:
    """The images of one shard, or of all shards, in path order."""
    first, last = (plan.first, plan.last) if plan else (None, None)
    for item, key, _ in catalogue.kept(first, last):
        f = item.found
        entry = Entry(f.path, f.nbytes, f.modified, item.kind, item.suffix, key, rows.get(f.path, {}))
        if item.series:
            files = catalogue.slices(f.path)
            slices = tuple(replace(entry, path=s.path, nbytes=s.nbytes, modified=s.modified, row=rows.get(s.path, {}))
                           for s in files)  # fmt: skip
            entry = replace(entry, nbytes=sum(s.nbytes for s in slices), suffix=SERIES, slices=slices)
        yield entry


def differing_columns(found: Iterable[Entry]) -> list[str]:
    """The user's columns that have several values, or gaps, within a series that is one image."""
    names: set[str] = set()
    for entry in found:
        for slice_ in entry.slices:
            first = entry.slices[0].row
            names.update(n for n in {*first, *slice_.row} if first.get(n) != slice_.row.get(n))
    return sorted(names)


def is_dicom(item: Scanned) -> bool:
    """Whether a file is DICOM by its bytes or by its suffix alone: in both cases its path may hold names."""
    return item.kind == "dicom" or item.suffix in ("dcm", "dicom")


def _key(item: Scanned, catalogue: Catalogue, keyed: KeyedHash) -> str:
    if item.series:
        return keyed("series", item.series)
    if item.instance:
        return keyed("instance", item.instance)
    stem = stem_of(item)
    if stem is None:
        return keyed("path", item.found.path)
    return safe(item.found.path) if catalogue.stem_is_shared(stem) else stem


def safe(path: str) -> str:
    """A path as a tar member's name. Percent-encoded are %, control characters, backslashes, bytes that are not UTF-8,
    and parts such as ".." that would lead out of a folder.
    """
    if path.isprintable() and not _ESCAPED.search(path):
        return path
    parts = []
    for part in path.split("/"):
        escaped = "".join(_escape(char) for char in part)
        parts.append("%2E%2E" if escaped == ".." else "%2E" if escaped == "." else escaped)
    return "/".join(part for part in parts if part)


def _escape(char: str) -> str:
    if char in "%\\" or not char.isprintable():
        raw = "\udc80" <= char <= "\udcff"  # a byte of the name that is not UTF-8 (PEP 383)
        return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogateescape" if raw else "surrogatepass"))
    return char


def shards_of(catalogue: Catalogue, rows: Rows, max_bytes: int, max_files: int, facts: str) -> list[ShardPlan]:
    """Divide the entries, in order, into shards of at most `max_files`, each closed once it has `max_bytes`.

    `facts`: other settings that determine the bytes of every shard.
    """
    shards: list[ShardPlan] = []
    cut: _Cut | None = None
    for entry in entries(catalogue, rows):
        if cut and (cut.nbytes + entry.nbytes > max_bytes or cut.files >= max_files):
            shards.append(cut.plan(len(shards)))
            cut = None
        cut = cut or _Cut(entry.path, facts)
        cut.add(entry)
    return shards if cut is None else [*shards, cut.plan(len(shards))]


class _Cut:
    """Accumulates the entries of one shard."""

    def __init__(self, first: str, facts: str) -> None:
        self.files = self.nbytes = 0
        self._first = self._last = first
        self._digest = hashlib.sha256(f"{FORMAT}\0{facts}".encode())

    def add(self, entry: Entry) -> None:
        line = [entry.path, entry.nbytes, entry.modified, entry.suffix, entry.key, dict(entry.row)]
        line += [[s.path, s.nbytes, s.modified, dict(s.row)] for s in entry.slices]
        self._digest.update(json.dumps(line, sort_keys=True).encode("utf-8", "surrogateescape"))
        self._last = entry.path
        self.files += 1
        self.nbytes += entry.nbytes

    def plan(self, number: int) -> ShardPlan:
        return ShardPlan(f"shard-{number:06d}.tar", self._first, self._last, self._digest.hexdigest())
