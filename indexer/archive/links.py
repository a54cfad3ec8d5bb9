"""Tar members whose bytes do not follow their own header: links to other members, and sparse files."""

from __future__ import annotations

import posixpath
import tarfile
from dataclasses import dataclass
from typing import Literal

from indexer.addresses import is_remote, open_stream
from indexer.archive.samples import plain_name
from indexer.errors import ReadError

SCATTERED = -1  # the offset of a sparse member, whose bytes are stored in several pieces
STEPS = 8  # most links followed in a chain


@dataclass(frozen=True)
class Target:
    """The regular member that a link points to."""

    offset: int
    nbytes: int


class Links:
    """Resolves the links of one archive. The members are listed at the first link: GNU tar writes a hard link for every
    second name of a file, and most archives have none.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._members: dict[str, Target | str] | None = None  # a regular member, or the name a link points to

    def target(self, header: tarfile.TarInfo) -> Target | str:
        """The regular member that a link points to, or the reason why there is none."""
        if is_remote(self._url):
            return "links of a remote shard cannot be followed"
        if self._members is None:
            try:
                self._members = _listed(self._url)
            except tarfile.ReadError:
                return "links of a compressed shard cannot be followed"
        found: Target | str | None = _led(header)
        for _ in range(STEPS):
            if found is None or isinstance(found, Target):
                break
            found = self._members.get(posixpath.normpath(found))
        return found if isinstance(found, Target) else "no such file in this archive"


def _led(header: tarfile.TarInfo) -> str:
    """The member name a link points to: a hard link holds it, a symbolic link a path relative to its own folder."""
    return header.linkname if header.islnk() else posixpath.join(posixpath.dirname(header.name), header.linkname)


def _listed(url: str) -> dict[str, Target | str]:
    members: dict[str, Target | str] = {}
    with tarfile.open(url, "r:") as archive:
        for header in archive:
            if header.islnk() or header.issym():
                members[posixpath.normpath(header.name)] = _led(header)
            elif header.isfile() and not header.issparse():
                members[posixpath.normpath(header.name)] = Target(header.offset_data, header.size)
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
    return members


def read_scattered(url: str, member: str) -> bytes:
    """A sparse member's bytes: the first of that name. Raises ReadError, or one of addresses.DAMAGE."""
    with open_stream(url) as stream:
        mode: Literal["r:", "r|"] = "r:" if stream.seekable() else "r|"
        with tarfile.open(fileobj=stream, mode=mode) as archive:
            for header in archive:
                if plain_name(header.name) == member:
                    file = archive.extractfile(header)
                    if file is not None:
                        return file.read()
                archive.members.clear()  # type: ignore[attr-defined]  # as above
    raise ReadError(f"{member} in {url} is not a file any more")
