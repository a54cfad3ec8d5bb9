"""Processing of samples and shards: bytes → pixels → unit vectors. Independent of threads, engines and tables."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from indexer.archive.reader import read_shard
from indexer.errors import CutShard, EncoderError, NotAnArchive, PixelError, ReadError
from indexer.pipeline.in_flight import Before, EmbeddedRow, Job, Planned, ReadShard, Task
from indexer.pipeline.report import CPU_DECODER
from indexer.pipeline.tally import Tally
from indexer.pixels import decode_missing
from indexer.pixels.png.small import SmallPictures
from indexer.types import (
    DELETED,
    UNREAD,
    EmbeddingRow,
    Encoder,
    Failure,
    Part,
    Picture,
    Place,
    Sample,
    Shard,
    ShardResult,
    Stage,
    UInt8,
    part_key,
)  # fmt: skip
from indexer.vectors import unit_rows

_NO_SAMPLE = Sample("", "", "", b"", -1, 0)


class Decoder(Protocol):
    """Decodes many images at once, e.g. on a GPU."""

    difference: float | None  # from the worker's own decoding, on a sample; None until measured
    at_once: int  # images of one call

    def squares(self, images: Sequence[bytes]) -> list[UInt8 | None]:
        """Pixels (size, size, 3) of each image, None for those the worker must decode. Thread-safe."""
        ...


class Resolve(Protocol):
    """Callback by which an embedder reports the rows and failures of a sample."""

    def __call__(
        self, task: Task, rows: Sequence[EmbeddedRow], failures: Sequence[Failure], *, done: bool, reused: int = 0
    ) -> None: ...


def embed_shard(
    shard: Shard, embedder: Embedder, *, before: Before | None = None, read: ReadShard = read_shard
) -> ShardResult:
    """Process one shard in the calling thread, for engines that run outside this process.

    `before` holds what the table has: vectors by content hash, samples that are skipped. The embedder must report to
    `settle`. Never raises ReadError: the result of a truncated or damaged shard is `partial`.
    """
    job = Job(Planned(shard), before)

    def task(of: Job, sample: Sample) -> Task:
        of.samples += not of.partial
        return Task(of, of.give(), sample)

    for one in tasks(job, read(replace(shard, stored=job.before.stored)), embedder.tally, task=task, resolve=settle):
        embedder.add(one)
    embedder.flush()
    job.read = True
    return job.take()


def settle(
    task: Task, rows: Sequence[EmbeddedRow], failures: Sequence[Failure], *, done: bool, reused: int = 0
) -> None:
    """Report to the task's own shard, without a lock."""
    task.job.settle(task.order, rows, failures, done=done, reused=reused)


def tasks(
    job: Job,
    stream: Iterator[Sample | Failure],
    tally: Tally,
    *,
    task: Callable[[Job, Sample], Task],
    resolve: Resolve,
) -> Iterator[Task]:
    """The samples of a shard to embed, each made with `task`; failures of reading are passed to `resolve` at once."""
    while True:
        start = time.perf_counter()
        item: Sample | Failure | None = None  # drops the last image before the next one is read
        try:
            item = next(stream, None)
        except ReadError as error:
            job.partial = True
            if not isinstance(error, (NotAnArchive, CutShard)):  # of the disk or the network, perhaps temporary:
                job.shard = replace(job.shard, identity=UNREAD)  # the next run reads the shard, whatever its identity
            item = Failure(job.shard.name, "", "read", shard_reason(error), str(error))
            stream = iter(())  # the next iteration ends the shard
        tally.clock("read", start)
        if item is None:
            return
        if digest := job.before.withdrawn(item.key):
            gone = Failure(job.shard.name, digest, "store", DELETED)
            resolve(task(job, _NO_SAMPLE), [], [gone], done=True)
        elif (item.member, item.offset) in job.before.stored:
            job.samples += 1
            tally.keep(item)
        elif isinstance(item, Sample) and job.before.held(item):
            job.samples += 1
            job.adopted += 1
            tally.adopt(item)
        elif isinstance(item, Sample):
            tally.note(item)
            yield task(job, item)
        else:
            resolve(task(job, _NO_SAMPLE), [], [item], done=True)


class Embedder:
    """One thread's batch buffer: decoded images are queued until the batch is full, across samples and shards.

    Every batch has the encoder's full size (a short one is padded), since a matrix product of another shape may round
    differently: a resumed run stores the same bits as an uninterrupted one.
    """

    def __init__(
        self,
        encoder: Encoder,
        tally: Tally,
        resolve: Resolve = settle,
        *,
        decoder: Decoder | None = None,
        frames: str = "all",
        time: str = "first",
    ) -> None:
        size = encoder.spec.pixels.size
        self.tally, self._resolve = tally, resolve
        self._encoder, self._decoder = encoder, decoder
        self._frames, self._time = frames, time
        self._buffer = np.zeros((encoder.batch_size, size, size, 3), np.uint8)
        self._waiting: list[tuple[Task, EmbeddingRow, bool]] = []  # the flag: whether it is its sample's last part
        self._flags: Counter[str] = Counter()

    def squares(self, chunk: Sequence[Task]) -> list[UInt8 | None]:
        """A chunk's images as decoded by `Decoder`, None for each that this thread must decode."""
        if self._decoder is None or self._encoder.spec.pixels.channels == 3:
            return [None] * len(chunk)
        start = time.perf_counter()
        squares = self._decoder.squares([task.sample.image for task in chunk])
        self.tally.clock("decode", start)
        return squares

    def add(self, task: Task, square: UInt8 | None = None) -> None:
        """Decode a sample and embed each batch that becomes full. `square`: its pixels where `Decoder` decoded it."""
        sample, tally = task.sample, self.tally
        start = time.perf_counter()
        try:
            if sample.late is not None:
                sample = replace(sample, image=sample.read(), late=None)
        except PixelError as error:
            tally.clock("decode", start)
            self._resolve(task, [], [_failure(sample, error)], done=True)
            return
        content = hashlib.sha256(sample.image).hexdigest()
        stored = {part_key("", name): kept for name, kept in task.job.before.known.get(content, {}).items()}
        held: EmbeddingRow | None = None  # resolved one step late, when it is known whether it is the last part
        reused = 0
        try:
            for item in self._parts(sample, square, stored):
                if isinstance(item, Part):
                    row = _row(sample, content, item)
                    self._resolve(task, [(row, *stored[part_key("", item.name)])], [], done=False, reused=1)
                    reused += 1
                    continue
                if held is not None:
                    start = self._push(task, held, start, last=False)
                self._flags.update(item.flags)
                self._buffer[len(self._waiting)] = item.pixels
                held = _row(sample, content, item.part)
        except PixelError as error:
            if held is not None:
                start = self._push(task, held, start, last=False)
            tally.clock("decode", start)
            if held is not None:
                self.flush()  # earlier parts first: the shard may be taken as soon as its last sample is resolved
            self._resolve(task, [], [_failure(sample, error)], done=True)
            return
        if held is None:
            tally.clock("decode", start)
            failures = [] if reused else [_failure(sample, PixelError("no frames"))]
            self._resolve(task, [], failures, done=True)
        else:
            tally.clock("decode", self._push(task, held, start, last=True))

    def _parts(self, sample: Sample, square: UInt8 | None, stored: Container[str]) -> Iterator[Picture | Part]:
        """The selected parts, decoded; undecoded where their vector is stored."""
        if square is not None and "" not in stored:
            return iter((Picture(Part(""), square),))
        return decode_missing(
            sample.image,
            sample.suffix,
            self._encoder.spec.pixels,
            frames=self._frames,
            time=self._time,
            stored=lambda part: part_key("", part.name) in stored,
        )

    def _push(self, task: Task, row: EmbeddingRow, start: float, *, last: bool) -> float:
        """Queue the image in the buffer's next slot. A full batch is embedded, which is not counted as decode time."""
        # Without its bytes: a batch of large files would fill the memory
        light = Task(task.job, task.order, replace(task.sample, image=b"", late=None))
        self._waiting.append((light, row, last))
        if len(self._waiting) < len(self._buffer):
            return start
        self.tally.clock("decode", start)
        self.flush()
        return time.perf_counter()

    def flush(self) -> None:
        """Embed the queued images."""
        if not self._waiting:
            return
        n, tally = len(self._waiting), self.tally
        start = time.perf_counter()
        raw = self._encoder.embed(self._buffer)[:n]
        tally.clock("encode", start)
        tally.note_pictures(self._buffer[:n], self._flags)
        self._flags = Counter()
        vectors, norms, good = unit_rows(raw)
        tally.spread.add(vectors[good])
        for i, (task, row, last) in enumerate(self._waiting):
            if good[i]:
                self._resolve(task, [(row, vectors[i], float(norms[i]))], [], done=last)
            else:
                reason = "zero vector" if norms[i] == 0 else "vector not finite"
                error = PixelError(reason, f"norm {norms[i]}")
                self._resolve(task, [], [_failure(task.sample, error, "encode")], done=last)
        self._waiting.clear()


def _row(sample: Sample, content: str, part: Part) -> EmbeddingRow:
    place = Place(sample.shard, sample.member, sample.offset, sample.nbytes, sample.suffix, part.name)
    return EmbeddingRow(
        part_key(sample.key, part.name), place, content, sample.metadata, {**sample.facts, **part.facts}
    )


def _failure(sample: Sample, error: PixelError, stage: Stage = "decode") -> Failure:
    return Failure(
        sample.shard, sample.key, stage, error.reason, error.detail[:500],
        sample.offset, sample.nbytes, sample.suffix, sample.member,
    )  # fmt: skip


def decoder_of(encoder: Encoder) -> Decoder:
    """The decoder that the encoder's PixelSpec names. Raises EncoderError without a GPU."""
    if encoder.spec.pixels.decoder == CPU_DECODER:
        return SmallPictures(encoder.spec.pixels)
    if not encoder.device.startswith("cuda"):
        raise EncoderError(
            f"this table's JPEG files were decoded on a GPU ({encoder.spec.pixels.decoder}), and the encoder runs on "
            f"{encoder.device}. Index on a machine with a GPU, or into a new table (--table)."
        )
    import torch

    from indexer.encoders.backends.device import require_decoder

    require_decoder("gpu", encoder.device.split(",")[0])
    from indexer.pixels.jpeg.gpu import GpuDecoder

    return GpuDecoder([torch.device(name) for name in encoder.device.split(",")], encoder.spec.pixels)


def shard_reason(error: ReadError) -> str:
    """The stable reason under which a shard that cannot be read to its end is counted."""
    if isinstance(error, NotAnArchive):
        return error.reason
    return "shard is cut or damaged" if isinstance(error, CutShard) else "shard cannot be opened"
