"""LMDB databases of images as shards: each value is an image, under its key.

Read by the pages themselves (format 1 of LMDB 0.9, lmdb's mdb.c), which is small and bounded: the C library maps the
file and trusts every offset in it, so that a damaged one ends the process; and a value's place in the file is its
reference, by which an image is read back without the tree.

Keys are as in a folder: `a/im1.jpg` is an image, `a/im1.json` its metadata. Keys without a suffix are images too; of
text recognition's `image-000000001` the value of `label-000000001` is the label. Pickles are never opened.
"""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from indexer.addresses import is_remote, read_range
from indexer.archive.local import first_bytes, local_file, local_identity, remote_suffix
from indexer.archive.samples import METADATA_SUFFIXES, loose_sample, plain_name, sidecar_of, split_name
from indexer.archive.tables.named import TableOptions
from indexer.errors import CutShard, NotAnArchive, ReadError
from indexer.memory.budget import MAX_IMAGE, MAX_SIDECAR
from indexer.types import Failure, Place, Sample, Shard
from indexer.user_tables.joining import image_suffix

LOCK = "lock.mdb"
BOOKS = (b"num-samples", b"__len__", b"__keys__", b"length", b"num_samples")  # keys that count the others
PICKLE, PICKLED = b"\x80", range(2, 6)  # first byte of a pickle, and its protocol
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_META = struct.Struct("<IIQQ48s48sQQ")  # magic, version, address, map size, free list, main database, last page, txn
_DATABASE = struct.Struct("<IHHQQQQQ")  # page size, flags, depth, branch, leaf and overflow pages, entries, root
_PAGE, _NODE = struct.Struct("<QHHHH"), struct.Struct("<HHHH")
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4
_BIG, _SUB, _SEVERAL = 1, 2, 4
_NO_ROOT = 2**64 - 1
_DEEPEST = 32  # CURSOR_STACK of mdb.c
_KEPT = 64  # pages in memory


class Lmdb:
    """Implements `kind.ShardKind`: the file of a local LMDB database (`data.mdb`, or of another name)."""

    name = "lmdb"
    suffixes: tuple[str, ...] = (".mdb", ".lmdb")

    def claims(self, address: str) -> bool:
        if is_remote(address):
            return remote_suffix(address) in self.suffixes
        return Path(address).suffix.lower() in self.suffixes or _is_lmdb(first_bytes(address))

    def left_out(self, path: Path, tables: TableOptions) -> str:  # noqa: ARG002 - it has no columns to choose
        return "lock file of an LMDB database" if path.name.lower().endswith((LOCK, "-lock")) else ""

    def shards(self, address: str, *, hash_content: bool, tables: TableOptions, notes: list[str]) -> Iterator[Shard]:
        del tables
        path = local_file(address, "LMDB database")
        nbytes: int | None = None
        try:
            with Path(path).open("rb") as file:
                database = _Database(file, path)
                nbytes = database.nbytes
                books = [key.decode() for key in BOOKS if database.value(key)]
                notes.extend(f"{path}: the entry {key} counts the others and is no image" for key in books)
        except (OSError, ReadError):  # reading the shard reports it
            pass
        yield Shard(path, path, local_identity(path, hash_content=hash_content), self.name, nbytes=nbytes)

    def samples(self, shard: Shard) -> Iterator[Sample | Failure]:
        try:
            with Path(shard.url).open("rb") as file:
                database = _Database(file, shard.url)
                for entry in database.entries():
                    if entry.key not in BOOKS:
                        yield from _sample(database, entry, shard)
        except OSError as error:
            raise ReadError(f"{shard.url} cannot be read: {error}") from error

    def read_back(self, url: str, place: Place, roots: Sequence[str] | None) -> bytes:  # noqa: ARG002 - one file, which the caller checked
        return read_range(url, place.offset, place.nbytes)


class _Entry(NamedTuple):
    key: bytes
    offset: int  # of the value in the file
    nbytes: int
    refused: str  # why the value is none


def _sample(database: _Database, entry: _Entry, shard: Shard) -> Iterator[Sample | Failure]:
    name = plain_name(os.fsdecode(entry.key))
    suffix = image_suffix(name) or ""
    if not suffix and (split_name(name)[1] in METADATA_SUFFIXES or name.startswith("label-")):
        return  # of the image beside it
    if (name, entry.offset) in shard.stored:
        yield Sample(shard.name, name, suffix, b"", entry.offset, entry.nbytes, {}, name)
        return
    refused, value = entry.refused, b""
    if not refused:
        shard.room(entry.nbytes)
        value = database.bytes_at(entry)
        if value[:1] == PICKLE and value[1:2] and value[1] in PICKLED:
            refused = "a pickle, which can run code"
    if refused:
        detail = f"{name}: write the images themselves as values, or export them to a folder"
        yield Failure(shard.name, name, "read", refused, detail[:500], entry.offset, entry.nbytes, suffix, name)
        return
    beside = database.value(os.fsencode(sidecar_of(name)), MAX_SIDECAR + 1)
    label = database.value(b"label-" + entry.key[6:], MAX_SIDECAR) if entry.key.startswith(b"image-") else None
    for item in loose_sample(shard.name, name, value, beside, entry.offset):
        if isinstance(item, Sample) and label is not None:
            item.metadata["label"] = label.decode("utf-8", "replace")
        yield item


class _Database:
    """The main database of an open file. Raises NotAnArchive where it is none, CutShard where a page is damaged."""

    def __init__(self, file: IO[bytes], path: str) -> None:
        self._file, self._path = file, path
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        self._nbytes = os.fstat(file.fileno()).st_size
        head = self._at(0, _PAGE.size + _META.size)
        if not _is_lmdb(head):
            raise NotAnArchive(f"{path} is no LMDB database of format {_VERSION}", "not an LMDB database")
        self._page_bytes = _DATABASE.unpack(_META.unpack_from(head, _PAGE.size)[4])[0]
        if self._page_bytes not in (1 << shift for shift in range(8, 17)):
            raise NotAnArchive(f"{path} has pages of {self._page_bytes} bytes", "not an LMDB database")
        metas = [head, self._at(self._page_bytes, _PAGE.size + _META.size)]
        found = [_META.unpack_from(meta, _PAGE.size) for meta in metas if _is_lmdb(meta)]
        newest = max(found, key=lambda meta: int(meta[7]))
        self._last, self._root = newest[6], _DATABASE.unpack(newest[5])[7]
        self.nbytes = min((self._last + 1) * self._page_bytes, self._nbytes)

    def entries(self) -> Iterator[_Entry]:
        """All entries, in the order of their keys."""
        if self._root != _NO_ROOT:
            yield from self._below(self._root, _DEEPEST, [self._last + 1])

    def value(self, key: bytes, most: int = MAX_SIDECAR) -> bytes | None:
        """The value of a key; None where there is none, or one longer than `most`."""
        number = self._root
        for _ in range(_DEEPEST):
            if number == _NO_ROOT:
                return None
            flags, nodes = self._nodes(number)
            if flags & _LEAF:
                for node in nodes:
                    if node.key == key:
                        entry = self._entry(number, node)
                        return self.bytes_at(entry) if not entry.refused and entry.nbytes <= most else None
                return None
            number = next((n.child for n in reversed(nodes[1:]) if n.key <= key), nodes[0].child)
        raise self._damaged(number)

    def bytes_at(self, entry: _Entry) -> bytes:
        return self._at(entry.offset, entry.nbytes)

    def _below(self, number: int, depth: int, left: list[int]) -> Iterator[_Entry]:
        """`left`: pages that may still be visited, so that a circle ends."""
        left[0] -= 1
        if not depth or left[0] < 0:
            raise self._damaged(number)
        flags, nodes = self._nodes(number)
        for node in nodes:
            if flags & _LEAF:
                yield self._entry(number, node)
            else:
                yield from self._below(node.child, depth - 1, left)

    def _entry(self, number: int, node: _Node) -> _Entry:
        start = number * self._page_bytes + node.start
        if node.flags & (_SUB | _SEVERAL):
            what = "a database inside the database" if node.flags & _SUB else "several values of one key"
            return _Entry(node.key, start, 0, what)
        if node.flags & _BIG:
            (page,) = struct.unpack("<Q", self._at(start, 8))
            flags = _PAGE.unpack(self._at(page * self._page_bytes, _PAGE.size))[2]
            if not flags & _OVERFLOW:
                raise self._damaged(page)
            start = page * self._page_bytes + _PAGE.size
        elif node.start + node.nbytes > self._page_bytes:
            raise self._damaged(number)
        if start + node.nbytes > self._nbytes or node.nbytes > MAX_IMAGE:
            raise CutShard(f"{self._path} breaks off inside {plain_name(os.fsdecode(node.key))}")
        return _Entry(node.key, start, node.nbytes, "")

    def _nodes(self, number: int) -> tuple[int, list[_Node]]:
        """The flags of a tree's page, and its nodes."""
        page = self._page(number)
        stated, _, flags, lower, _ = _PAGE.unpack_from(page)
        count = (lower - _PAGE.size) // 2
        if stated != number or flags & 0x6F not in (_BRANCH, _LEAF) or count < 1 or lower > len(page):
            raise self._damaged(number)
        nodes = []
        for place in struct.unpack_from(f"<{count}H", page, _PAGE.size):
            if place + _NODE.size > len(page):
                raise self._damaged(number)
            low, high, more, key_bytes = _NODE.unpack_from(page, place)
            start = place + _NODE.size + key_bytes
            if start > len(page):
                raise self._damaged(number)
            key = page[place + _NODE.size : start]
            nodes.append(_Node(key, more, start, low | high << 16, low | high << 16 | more << 32))
        return flags, nodes

    def _page(self, number: int) -> bytes:
        if number in self._pages:
            self._pages.move_to_end(number)
            return self._pages[number]
        if number > self._last:
            raise self._damaged(number)
        page = self._pages[number] = self._at(number * self._page_bytes, self._page_bytes)
        if len(self._pages) > _KEPT:
            self._pages.popitem(last=False)
        return page

    def _at(self, offset: int, nbytes: int) -> bytes:
        """Raises CutShard where the file ends before."""
        if offset + nbytes > self._nbytes:
            if not offset:
                raise NotAnArchive(f"{self._path} is too short for an LMDB database", "not an LMDB database")
            raise CutShard(f"{self._path} breaks off at byte {self._nbytes:,}")
        self._file.seek(offset)
        return self._file.read(nbytes)

    def _damaged(self, number: int) -> CutShard:
        return CutShard(f"{self._path} breaks off: page {number} is damaged")


class _Node(NamedTuple):
    key: bytes
    flags: int
    start: int  # of the value in the page
    nbytes: int  # of the value
    child: int  # page below, of a node in a branch


def _is_lmdb(head: bytes) -> bool:
    return len(head) >= _PAGE.size + 8 and struct.unpack_from("<II", head, _PAGE.size) == (_MAGIC, _VERSION)
