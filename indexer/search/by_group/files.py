"""The images of a query that is named by files and folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from indexer.archive.reader import read_shard
from indexer.archive.shards import find_shards
from indexer.errors import InputError, ReadError
from indexer.search.images import QueryImage, read_image
from indexer.types import Sample

MOST_BYTES = 4 << 30  # of the files of one query, which are held in memory


def read_images(paths: Sequence[Path]) -> list[QueryImage]:
    """The images of files, and of folders and what lies below them, in the order of an index run.

    Raises InputError where one cannot be read, a folder has none, or they are too many.
    """
    found, nbytes = list[QueryImage](), 0
    for path in paths:
        for image in _below(path) if path.is_dir() else [read_image(path)]:
            nbytes += len(image.data)
            if nbytes > MOST_BYTES:
                raise InputError(f"the images of the query have more than {MOST_BYTES >> 30} GiB. Name fewer.")
            found.append(image)
    return found


def _below(folder: Path) -> Iterator[QueryImage]:
    for shard in find_shards([str(folder)]).shards:
        try:
            for item in read_shard(shard):
                if not isinstance(item, Sample):
                    raise InputError(f"query {folder}: {item.key} cannot be read ({item.reason}). Take it out.")
                yield QueryImage(item.key, item.image, item.suffix)
        except ReadError as error:
            raise InputError(f"query {folder} cannot be read: {error}. Name another folder.") from error
