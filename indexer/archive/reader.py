"""Shard → samples, each with its key, suffix, metadata and where its image's bytes lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from indexer.archive.addresses import DAMAGE, exactly, is_remote, open_stream, skip
from indexer.archive.files import named_file, read_files
from indexer.archive.tar import read_tar
from indexer.errors import ReadError
from indexer.types import Failure, Place, Sample, Shard


def read_shard(shard: Shard) -> Iterator[Sample | Failure]:
    """Samples in the shard's order; a Failure for each that has no usable image or metadata.

    Only whole samples: where the archive breaks off, the last one begun is not given, and CutShard is raised
    after those before it. Raises NotATar where there is no archive at all, ReadError where it cannot be opened.
    """
    return read_files(shard) if shard.kind == "files" else read_tar(shard)


def read_place(url: str, place: Place) -> bytes:
    """An image's bytes, read back from where they were when it was embedded. Raises ReadError."""
    try:
        if place.shard != url and "#" in place.shard:  # a folder's bucket: the file lies by its own name
            return named_file(Path(url), place.member).read_bytes()
        with open_stream(url) as stream:
            if is_remote(url):
                skip(stream, place.offset)
            else:
                stream.seek(place.offset)
            data = exactly(stream, place.nbytes)
    except DAMAGE as error:
        raise ReadError(f"{place.member} in {url} cannot be read back: {error}") from error
    return data
