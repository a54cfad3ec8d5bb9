"""A sample of an archive's images, spread over its shards, read before a run: for trials and for calibration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from indexer.archive.reader import read_shard
from indexer.errors import InputError, PixelError, ReadError
from indexer.pixels import decode
from indexer.types import Failure, PixelSpec, Sample, Shard, UInt8

SHARDS = 10  # spread over the archive, because its first shards may not be typical
PARTS = 8  # of one image; more would make a volume most of the sample


def sample_pictures(shards: Sequence[Shard], spec: PixelSpec, images: int) -> UInt8:
    """At most `images` decoded pictures (n, size, size, 3), up to PARTS of one image.

    Raises InputError where none can be read and decoded.
    """
    samples, reasons = sample_archive(shards, images)
    pictures: list[UInt8] = []
    for sample in samples:
        try:
            pictures += [part.pixels for part in islice(decode(sample.read(), sample.suffix, spec), PARTS)]
        except PixelError as error:
            reasons[error.reason] += 1
        if len(pictures) >= images:
            break
    if not pictures:
        raise InputError(f"no image could be read: {reason_words(reasons) or 'the shards are empty'}.")
    return np.stack(pictures[:images])


def sample_archive(shards: Sequence[Shard], images: int) -> tuple[list[Sample], Counter[str]]:
    """Up to `images` samples, an equal number from each of a few shards spread over the archive.

    Where these hold too few, as the buckets of a small folder do, further shards are read.
    """
    left = list(shards)
    samples: list[Sample] = []
    reasons: Counter[str] = Counter()
    while left and len(samples) + sum(reasons.values()) < images:
        places = {i * len(left) // SHARDS for i in range(SHARDS)}
        _read_some([left[place] for place in sorted(places)], images, samples, reasons)
        left = [shard for place, shard in enumerate(left) if place not in places]
    return samples, reasons


def _read_some(shards: Sequence[Shard], images: int, samples: list[Sample], reasons: Counter[str]) -> None:
    """Add to `samples` and `reasons` until they have `images` items in total, or the shards end."""
    streams = [_stream(shard) for shard in shards]
    share = -(-images // len(streams))
    while streams and len(samples) + sum(reasons.values()) < images:
        for stream in list(streams):
            items = list(islice(stream, min(share, images - len(samples) - sum(reasons.values()))))
            if not items:
                streams.remove(stream)
            samples += [item for item in items if isinstance(item, Sample)]
            reasons.update(item.reason for item in items if isinstance(item, Failure))


def _stream(shard: Shard) -> Iterator[Sample | Failure]:
    try:
        yield from read_shard(shard)
    except ReadError as error:
        yield Failure(shard.name, "", "read", "shard is damaged or cannot be opened", str(error))


def reason_words(reasons: Counter[str]) -> str:
    """The reasons with their counts, most frequent first."""
    return ", ".join(f"{n} x {reason}" for reason, n in reasons.most_common())
