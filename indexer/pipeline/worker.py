"""One thread of a run: decodes samples into its own batch and embeds the batch when it is full."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import replace

import numpy as np

from indexer.errors import PixelError
from indexer.pipeline.in_flight import Decoder, InFlight, StopRun, Task
from indexer.pixels import decode_missing
from indexer.types import EmbeddingRow, Encoder, Failure, Part, Picture, Place, Sample, Stage, UInt8, part_key
from indexer.vectors import unit_rows


class Worker:
    """One thread's batch buffer: pictures wait here until the batch is full, across chunks and shards."""

    def __init__(self, books: InFlight, encoder: Encoder, decoder: Decoder | None, frames: str) -> None:
        size = encoder.spec.pixels.size
        self._books, self._encoder, self._decoder, self._frames = books, encoder, decoder, frames
        self._buffer = np.zeros((encoder.batch_size, size, size, 3), np.uint8)
        self._waiting: list[tuple[Task, EmbeddingRow, bool]] = []  # with whether it is its sample's last part
        self._flags: Counter[str] = Counter()

    def run(self) -> None:
        from indexer.encoders.backends.cpu import use_one_thread_beside_others  # imports torch, as decoding will

        use_one_thread_beside_others()  # before the first resize, which would spread over every core
        while (chunk := self._books.take()) is not None:
            for task, square in zip(chunk, self._squares(chunk), strict=True):
                if self._books.stop.is_set():
                    raise StopRun
                self._decode(task, square)
            if not chunk:  # nothing to read for the moment: do not keep a shard waiting for a full batch
                self._embed()
        self._embed()

    def _squares(self, chunk: list[Task]) -> list[UInt8 | None]:
        """What another decoder than this thread has made of a chunk's images."""
        if self._decoder is None:
            return [None] * len(chunk)
        start = time.perf_counter()
        squares = self._decoder.squares([task.sample.image for task in chunk])
        self._books.clock("decode", start)
        return squares

    def _decode(self, task: Task, square: UInt8 | None) -> None:
        sample, books = task.sample, self._books
        content = hashlib.sha256(sample.image).hexdigest()
        stored = {part_key("", name): kept for name, kept in task.job.known.get(content, {}).items()}
        start = time.perf_counter()
        held: EmbeddingRow | None = None  # decided one step late, so that the last part is known to be the last
        reused = 0
        try:
            for item in self._parts(sample, square, stored):
                if isinstance(item, Part):
                    row = _row(sample, content, item)
                    books.resolve(task, [(row, *stored[part_key("", item.name)])], [], samples=0, reused=1)
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
            books.clock("decode", start)
            if held is not None:
                self._embed()  # parts before it: the shard may be taken as soon as its last sample is resolved
            books.resolve(task, [], [_failure(sample, error)], samples=1)
            return
        if held is None:
            books.clock("decode", start)
            failures = [] if reused else [_failure(sample, PixelError("no frames"))]
            books.resolve(task, [], failures, samples=1)
        else:
            books.clock("decode", self._push(task, held, start, last=True))

    def _parts(self, sample: Sample, square: UInt8 | None, stored: Container[str]) -> Iterator[Picture | Part]:
        """The wanted parts, decoded; as they are where their vector is stored."""
        if square is not None:
            return iter((Picture(Part(""), square),))
        return decode_missing(
            sample.image,
            sample.suffix,
            self._encoder.spec.pixels,
            frames=self._frames,
            stored=lambda part: part_key("", part.name) in stored,
        )

    def _push(self, task: Task, row: EmbeddingRow, start: float, *, last: bool) -> float:
        """Queue the picture that lies in the buffer's next slot; a full batch is embedded off the decode clock."""
        light = replace(task, sample=replace(task.sample, image=b""))  # a batch of large files would fill the memory
        self._waiting.append((light, row, last))
        if len(self._waiting) < len(self._buffer):
            return start
        self._books.clock("decode", start)
        self._embed()
        return time.perf_counter()

    def _embed(self) -> None:
        if not self._waiting:
            return
        n, books = len(self._waiting), self._books
        start = time.perf_counter()
        raw = self._encoder.embed(self._buffer)[:n]
        books.clock("encode", start)
        books.note_pictures(self._buffer[:n], self._flags)
        self._flags = Counter()
        vectors, norms, good = unit_rows(raw)
        books.spread.add(vectors[good])
        for i, (task, row, last) in enumerate(self._waiting):
            if good[i]:
                books.resolve(task, [(row, vectors[i], float(norms[i]))], [], samples=last)
            else:
                reason = "zero vector" if norms[i] == 0 else "vector not finite"
                error = PixelError(reason, f"norm {norms[i]}")
                books.resolve(task, [], [_failure(task.sample, error, "encode")], samples=last)
        self._waiting.clear()


def _row(sample: Sample, content: str, part: Part) -> EmbeddingRow:
    place = Place(sample.shard, sample.member, sample.offset, sample.nbytes, sample.suffix, part.name)
    return EmbeddingRow(part_key(sample.key, part.name), place, content, sample.metadata, part.facts)


def _failure(sample: Sample, error: PixelError, stage: Stage = "decode") -> Failure:
    return Failure(
        sample.shard, sample.key, stage, error.reason, error.detail[:500],
        sample.offset, sample.nbytes, sample.suffix, sample.member,
    )  # fmt: skip
