"""Times each stage on a few hundred images of the user's shards and predicts the rate of a whole run."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from indexer.encoders.backends.cpu import use_one_thread_beside_others
from indexer.errors import InputError, PixelError
from indexer.pipeline.report import bottleneck, stage_times
from indexer.pipeline.sampling.archive_sample import reason_words, sample_archive
from indexer.pixels import decode
from indexer.types import Encoder, Sample, Shard, UInt8

IMAGES = 200
MODEL_SECONDS = 3.0
_MILLION = 1_000_000


@dataclass(frozen=True)
class Trial:
    """Rates in images a second: reading by one thread, decoding and the model by all threads of a run."""

    encoder: str
    device: str
    images: int  # read, and decoded or failed; each part of a file with several counts
    failed: int
    reasons: dict[str, int]
    nbytes: int  # of the files read
    threads: int
    read_per_second: float
    decode_per_second: float
    model_per_second: float
    expected_per_second: float
    hours_a_million: float
    bottleneck: str  # one line with a remedy


def trial(shards: Sequence[Shard], encoder: Encoder, images: int = IMAGES) -> Trial:
    """Read, decode and embed about `images` images. Raises InputError where none can be read or decoded."""
    started = time.perf_counter()
    samples, reasons = sample_archive(shards, images)
    read_seconds = time.perf_counter() - started
    if not samples:
        raise InputError(f"the trial read no image: {reason_words(reasons) or 'the shards are empty'}.")
    pictures, decode_seconds = _decode(samples, encoder, images, reasons)
    failed = sum(reasons.values())
    if not len(pictures):
        raise InputError(f"the trial decoded no image: {reason_words(reasons)}. `indexer index` would list each.")
    done = len(pictures) + failed
    read, decoded = done / read_seconds, done / decode_seconds
    model = _model_rate(pictures, encoder)
    workers = encoder.workers
    expected = _expected(read, decoded, model, encoder.device)
    seconds = done / expected
    lanes = workers if encoder.device == "cpu" else encoder.device.count(",") + 1  # a GPU computes one batch at a time
    busy = {"read": read_seconds, "decode": workers * decode_seconds, "encode": lanes * done / model, "store": 0.0}
    words = bottleneck(stage_times(busy, workers=workers), seconds, device=encoder.device)
    return Trial(
        encoder=encoder.spec.name,
        device=encoder.device,
        images=done,
        failed=failed,
        reasons=dict(reasons.most_common()),
        nbytes=sum(sample.nbytes for sample in samples),
        threads=workers,
        read_per_second=read,
        decode_per_second=decoded,
        model_per_second=model,
        expected_per_second=expected,
        hours_a_million=_MILLION / expected / 3600,
        bottleneck=words,
    )


def _expected(read: float, decoded: float, model: float, device: str) -> float:
    """On a CPU decoding and the model share the cores, so their times add up; a GPU computes concurrently."""
    both = 1 / (1 / decoded + 1 / model) if device == "cpu" else min(decoded, model)
    return min(read, both)


def _decode(samples: Sequence[Sample], encoder: Encoder, images: int, reasons: Counter[str]) -> tuple[UInt8, float]:
    """Decoded images (n, size, size, 3), n at most about `images`, and the seconds until the last thread ended."""
    spec = encoder.spec.pixels
    pictures: list[UInt8] = []
    lock = threading.Lock()
    queue = iter(samples)

    def work() -> None:
        use_one_thread_beside_others()
        while True:
            with lock:
                sample = next(queue, None)
                room = images - len(pictures)
            if sample is None or room <= 0:
                return
            try:
                found = [p.pixels for p in islice(decode(sample.read(), sample.suffix, spec), room)]
            except PixelError as error:
                with lock:
                    reasons[error.reason] += 1
                continue
            with lock:
                pictures.extend(found)

    _first_of_each_kind(samples, encoder)
    seconds = _side_by_side(work, encoder.workers)
    return np.stack(pictures) if pictures else np.empty((0, spec.size, spec.size, 3), np.uint8), seconds


def _first_of_each_kind(samples: Sequence[Sample], encoder: Encoder) -> None:
    """Imports libraries and starts decoder processes before anything is timed."""
    for sample in {sample.suffix: sample for sample in samples}.values():
        try:
            next(decode(sample.read(), sample.suffix, encoder.spec.pixels), None)
        except PixelError:
            continue  # the timed run counts its failure


def _model_rate(pictures: UInt8, encoder: Encoder) -> float:
    """Images a second in full batches, as in a long run, by as many threads as the encoder uses."""
    batch = np.resize(pictures, (encoder.batch_size, *pictures.shape[1:]))
    done = 0
    lock = threading.Lock()

    def once() -> None:
        encoder.embed(batch)

    def work() -> None:
        nonlocal done
        end = time.perf_counter() + MODEL_SECONDS
        while time.perf_counter() < end:
            once()
            with lock:
                done += len(batch)

    _side_by_side(once, encoder.workers)  # untimed: compiles and allocates
    seconds = _side_by_side(work, encoder.workers)
    return done / seconds


def _side_by_side(work: Callable[[], None], threads: int) -> float:
    """Run `work` in `threads` threads; returns the seconds until the last has ended. Raises an error of any of them."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - re-raised in the calling thread
            errors.append(error)

    running = [threading.Thread(target=guarded, daemon=True) for _ in range(threads)]
    started = time.perf_counter()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]
    return time.perf_counter() - started
