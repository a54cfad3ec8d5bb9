"""Tar members whose bytes do not follow their own header: links to other members, and sparse files."""

from __future__ import annotations

import posixpath
import tarfile
from dataclasses import dataclass
from typing import Literal

from indexer.addresses import is_remote, open_stream
from indexer.archive.samples import plain_name
from indexer.errors import ReadError

SCATTERED = -1  # the offset of a sparse member in tables of version 0.1 and 0.2: it is found by its name
STEPS = 8  # most links followed in a chain


def scattered(header: tarfile.TarInfo) -> int:
    """The offset under which a sparse member is stored, whose bytes lie in several pieces: below SCATTERED, and another
    one for each member.
    """
    return SCATTERED - 1 - header.offset


@dataclass(frozen=True)
class Target:
    """The file that a link points to; its offset may be that of `scattered`."""

    offset: int
    nbytes: int


@dataclass(frozen=True)
class _Link:
    name: str  # of the member it leads to
    hard: bool


_Entry = tuple[int, Target | _Link]  # where the member's header is, and what it is


class Links:
    """Resolves the links of one archive. The members are listed at the first link: GNU tar writes a hard link for every
    second name of a file, and most archives have none.

    A name may stand there several times. As unpacking has it, a hard link leads to the last file of its name before it,
    a symbolic link to the last one of all.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._last: dict[str, _Entry] | None = None
        self._earlier: dict[str, list[_Entry]] = {}  # of names that occur again

    def target(self, header: tarfile.TarInfo) -> Target | str:
        """The file that a link points to, or the reason why there is none."""
        if is_remote(self._url):
            return "links of a remote shard cannot be followed"
        if self._last is None:
            try:
                self._list()
            except tarfile.ReadError:
                return "links of a compressed shard cannot be followed"
        entry: _Entry | None = (header.offset, _led(header))
        for _ in range(STEPS):
            if entry is None or isinstance(entry[1], Target):
                break
            entry = self._found(entry[0], entry[1])
        return entry[1] if entry and isinstance(entry[1], Target) else "no such file in this archive"

    def _found(self, offset: int, link: _Link) -> _Entry | None:
        name = posixpath.normpath(link.name)
        last = (self._last or {}).get(name)
        if last is None or not link.hard or last[0] < offset:
            return last
        others: list[_Entry] = [*self._earlier.get(name, ()), last]
        before = [entry for entry in others if entry[0] < offset]
        return before[-1] if before else others[0]

    def _list(self) -> None:
        listed: dict[str, _Entry] = {}
        with tarfile.open(self._url, "r:") as archive:
            for header in archive:
                entry = _entry(header)
                name = posixpath.normpath(header.name)
                if entry is not None and name in listed:
                    self._earlier.setdefault(name, []).append(listed[name])
                if entry is not None:
                    listed[name] = entry
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
        self._last = listed


def _entry(header: tarfile.TarInfo) -> _Entry | None:
    if header.islnk() or header.issym():
        return header.offset, _led(header)
    if not header.isfile():
        return None
    return header.offset, Target(scattered(header) if header.issparse() else header.offset_data, header.size)


def _led(header: tarfile.TarInfo) -> _Link:
    """What a link points to: a hard link holds the member's name, a symbolic link a path relative to its own folder."""
    if header.islnk():
        return _Link(header.linkname, hard=True)
    return _Link(posixpath.join(posixpath.dirname(header.name), header.linkname), hard=False)


def read_scattered(url: str, offset: int, member: str) -> bytes:
    """The bytes of the sparse member stored under `offset`, in older tables of the first of that name. Raises
    ReadError, or one of addresses.DAMAGE.
    """
    with open_stream(url) as stream:
        start = SCATTERED - 1 - offset
        seekable = stream.seekable()
        if seekable and start >= 0:
            stream.seek(start)
        mode: Literal["r:", "r|"] = "r:" if seekable else "r|"
        with tarfile.open(fileobj=stream, mode=mode) as archive:
            for header in archive:
                if header.offset == start if start >= 0 else plain_name(header.name) == member:
                    file = archive.extractfile(header)
                    if file is not None:
                        return file.read()
                archive.members.clear()  # type: ignore[attr-defined]  # as above
    raise ReadError(f"{member} in {url} is not a file any more")
