"""Divides a folder's loose images into shards."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from indexer.archive.spool import Spool
from indexer.types import Shard

BUCKETS = 256  # shards into which a folder of images is divided; fixed, so that a file keeps its shard

Lister = Callable[[str], Iterator[str]]  # root → the paths of its images, in order; picklable


class Buckets:
    """A folder's images, assigned to shards as they are found.

    A file's bucket depends on its own path alone: a growing folder changes few shards, and no file moves to another.
    """

    def __init__(self) -> None:
        self.files = 0
        self._spool = Spool()
        self._facts = [hashlib.sha256() for _ in range(BUCKETS)]
        self._counts = [0] * BUCKETS
        self._nbytes = [0] * BUCKETS  # of the images alone

    def add(self, path: str, identity: str | None, nbytes: int) -> None:
        number = _bucket(path)
        self._spool.append(number, path)
        self._facts[number].update(os.fsencode(f"{path}\0{identity}\0"))
        self._counts[number] += 1
        self._nbytes[number] += nbytes
        self.files += 1

    def shards(self, base: str, kind: str, lister: Lister, *, sidecars: bool = True) -> Iterator[Shard]:
        """One shard for each bucket with files; `base` is the folder's lasting name."""
        token = secrets.token_hex(8)
        for number, facts in enumerate(self._facts):
            if self._counts[number]:
                files = Bucket(base, number, token, lister, sidecars, spool=self._spool)
                name, facts_hash = f"{base}#{number:03d}", facts.hexdigest()[:32]
                yield Shard(base, name, facts_hash, kind, files, self._nbytes[number])


class Bucket:
    """The names of a shard's files, read from the listing's spool; another process lists the folder again."""

    def __init__(
        self,
        root: str,
        number: int,
        listing: str,
        lister: Lister,
        sidecars: bool,
        names: Sequence[str] | None = None,
        *,
        spool: Spool | None = None,
    ) -> None:
        """`listing` identifies one of several listings of the same folder; `sidecars`: JSON may lie beside images."""
        self.sidecars = sidecars
        self._root, self._number, self._listing, self._lister, self._spool = root, number, listing, lister, spool
        self._names = names

    def in_hand(self) -> Bucket:
        """The same with its names in memory: a process that gets it need not list the folder again."""
        return Bucket(self._root, self._number, self._listing, self._lister, self.sidecars, tuple(self))

    def __iter__(self) -> Iterator[str]:
        if self._names is not None:
            return iter(self._names)
        spool = self._spool or _listed_again(self._root, self._listing, self._lister)
        return spool.read(self._number)

    def __reduce__(self) -> tuple[type[Bucket], tuple[str, int, str, Lister, bool, Sequence[str] | None]]:
        return Bucket, (self._root, self._number, self._listing, self._lister, self.sidecars, self._names)


@lru_cache(maxsize=1)
def _listed_again(root: str, listing: str, lister: Lister) -> Spool:  # noqa: ARG001 - a key of the cache
    spool = Spool()
    for path in lister(root):
        spool.append(_bucket(path), path)
    return spool


def _bucket(path: str) -> int:
    return hashlib.blake2b(os.fsencode(path), digest_size=1).digest()[0] % BUCKETS
