"""Shard → samples, and an image's bytes read back from its place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from indexer.addresses import DAMAGE
from indexer.archive.kinds import KINDS, kind_of
from indexer.errors import ReadError
from indexer.types import Failure, Place, Sample, Shard


def read_shard(shard: Shard) -> Iterator[Sample | Failure]:
    """Samples in the shard's order; a Failure for each that has no usable image or metadata.

    Only whole samples: where the archive breaks off, the last one begun is not given, and CutShard is raised
    after those before it. Raises NotATar where there is no archive at all, ReadError where it cannot be opened.
    """
    return next(kind for kind in KINDS if kind.name == shard.kind).samples(shard)


def read_place(url: str, place: Place, content: str) -> bytes:
    """An image's bytes, read back from where they were when it was embedded.

    Raises ReadError, also where these are no longer the bytes whose sha256 is `content`.
    """
    try:
        data = kind_of(url).read_back(url, place)
    except DAMAGE as error:
        raise ReadError(f"{place.member} in {url} cannot be read back: {error}") from error
    if hashlib.sha256(data).hexdigest() != content:
        raise ReadError(f"{place.member} in {url} is no longer the image that was indexed: its bytes differ")
    return data
