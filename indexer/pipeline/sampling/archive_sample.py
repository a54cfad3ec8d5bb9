"""A sample of an archive's images, spread over its shards, read before a run: for trials and for calibration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from indexer.archive.reader import read_shard
from indexer.errors import InputError, PixelError, ReadError
from indexer.pixels import decode
from indexer.types import Failure, Int64, PixelSpec, Sample, Shard, UInt8

SHARDS = 10  # spread over the archive, because its first shards may not be typical
PARTS = 8  # of one image; more would make a volume most of the sample


def sample_pictures(shards: Sequence[Shard], spec: PixelSpec, images: int) -> tuple[UInt8, Int64]:
    """At most `images` decoded pictures (n, size, size, 3), up to PARTS of one image, a file of each shard at a time,
    and the number (n,) of the image that each is of.

    Raises InputError where none can be read and decoded.
    """
    pictures: list[UInt8] = []
    numbers: list[int] = []
    reasons: Counter[str] = Counter()
    for number, item in enumerate(_sampled(shards, images)):
        if isinstance(item, Failure):
            reasons[item.reason] += 1
            continue
        try:
            pictures += [part.pixels for part in islice(decode(item.read(), item.suffix, spec), PARTS)]
        except PixelError as error:
            reasons[error.reason] += 1
        numbers += [number] * (len(pictures) - len(numbers))
        if len(pictures) >= images:
            break
    if not pictures:
        raise InputError(f"no image could be read: {reason_words(reasons) or 'the shards are empty'}.")
    return np.stack(pictures[:images]), np.array(numbers[:images], np.int64)


def sample_archive(shards: Sequence[Shard], images: int) -> tuple[list[Sample], Counter[str]]:
    """Up to `images` samples, with their bytes, and the reasons of those of them that cannot be read."""
    items = list(_sampled(shards, images))
    reasons = Counter(item.reason for item in items if isinstance(item, Failure))
    return [item for item in items if isinstance(item, Sample)], reasons


def _sampled(shards: Sequence[Shard], images: int) -> Iterator[Sample | Failure]:
    """Up to `images` items, an equal number from each of a few shards spread over the archive.

    Where these hold too few, as the buckets of a small folder do, further shards are read.
    """
    left, given = list(shards), 0
    while left and given < images:
        places = {i * len(left) // SHARDS for i in range(SHARDS)}
        streams = [_stream(left[place]) for place in sorted(places)]
        share = -(-images // len(streams))
        while streams and given < images:
            for stream in list(streams):
                before = given
                for item in islice(stream, min(share, images - given)):
                    given += 1
                    yield item
                if given == before:
                    streams.remove(stream)
        left = [shard for place, shard in enumerate(left) if place not in places]


def _stream(shard: Shard) -> Iterator[Sample | Failure]:
    try:
        yield from read_shard(shard)
    except ReadError as error:
        yield Failure(shard.name, "", "read", "shard is damaged or cannot be opened", str(error))


def reason_words(reasons: Counter[str]) -> str:
    """The reasons with their counts, most frequent first."""
    return ", ".join(f"{n} x {reason}" for reason, n in reasons.most_common())
