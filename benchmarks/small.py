"""Small pictures and small shards: what a run costs besides its encoder, `python -m benchmarks.small`.

Pictures of 28 px (the Fashion-MNIST that Debian's dataset-fashion-mnist installs, else noise) as PNG in tar shards,
once in few large shards and once in as many as there are tens of pictures. The encoder gives fixed vectors and so costs
nothing. Microseconds of CPU time a picture: of whole runs, which take turns, and of each step alone in one thread.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.provenance import RESULTS, write
from benchmarks.shards import write_shards
from indexer.archive.reader import read_shard
from indexer.archive.shards import find_shards
from indexer.encoders.backends.cpu import use_one_thread_beside_others
from indexer.encoders.families.weights import parse
from indexer.encoders.loading import BUNDLED, find
from indexer.malloc import keep_freed_memory
from indexer.pipeline.run import index
from indexer.pixels import decode
from indexer.store.table import EmbeddingStore
from indexer.types import EncoderSpec, Float32, Sample, Shard, UInt8

FASHION = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
SIDE, HEADER = 28, 16
FEW, EACH = 10, 10  # large shards; pictures of a small one
ALIKE = 0.9  # goal: rate with small shards over that with large ones
STEPS = 5_000  # pictures of the steps alone


class FreeEncoder:
    """Implements `types.Encoder` with the bundled encoder's spec, and gives every picture a fixed vector."""

    device, batch_size, workers, text = "cpu", 8, 2, False

    def __init__(self) -> None:
        self.spec: EncoderSpec = replace(find(BUNDLED, parse(None)).spec, precision="bf16")
        self._vectors = np.random.default_rng(0).standard_normal((self.batch_size, self.spec.dim), np.float32)

    def embed(self, pictures: UInt8) -> Float32:
        use_one_thread_beside_others()
        return self._vectors[: len(pictures)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as scratch:
        folders = {"few": Path(scratch) / "few", "many": Path(scratch) / "many"}
        files = pngs(args.images)
        for folder, each in zip(folders.values(), (args.images // FEW, EACH), strict=True):
            write_shards(folder, files, "png", each=each)
        shards = {name: find_shards([str(folder)]).shards for name, folder in folders.items()}
        rounds = [{name: run(own, args.images) for name, own in shards.items()} for _ in range(args.rounds)]
        steps = steps_alone(shards["few"][0])
    ratio = statistics.median(r["few"]["cpu_us"] / r["many"]["cpu_us"] for r in rounds)
    result = {
        "images": args.images, "side": SIDE, "real": FASHION.is_file(),
        "shards": {k: len(s) for k, s in shards.items()},
        "cpu_us_per_picture": {k: statistics.median(r[k]["cpu_us"] for r in rounds) for k in shards},
        "pictures_per_second": {k: statistics.median(r[k]["pictures_per_second"] for r in rounds) for k in shards},
        "many_shards_over_few": ratio, "goals_met": {"many shards within 10 %": ratio >= ALIKE},
        "steps_us_per_picture": steps, "rounds": rounds,
    }  # fmt: skip
    result = write(RESULTS / "small.json", result)
    print(json.dumps(result) if args.json else "\n".join(f"{k}: {v}" for k, v in result.items()))


def pngs(count: int) -> list[bytes]:
    if FASHION.is_file():
        raw = np.frombuffer(gzip.decompress(FASHION.read_bytes())[HEADER:], np.uint8).reshape(-1, SIDE, SIDE)
    else:
        raw = np.random.default_rng(0).integers(0, 256, (min(count, 60_000), SIDE, SIDE), np.uint8)
    out = []
    for i in range(count):
        file = io.BytesIO()
        Image.fromarray(raw[i % len(raw)]).save(file, "PNG")
        out.append(file.getvalue())
    return out


def run(shards: tuple[Shard, ...], images: int) -> dict[str, float]:
    """A whole run into a new table."""
    encoder = FreeEncoder()
    with tempfile.TemporaryDirectory() as database:
        store = EmbeddingStore.create(database, "t", encoder.spec)
        started, cpu = time.perf_counter(), time.process_time()
        report = index(shards, store, encoder, None)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    if report.embedded != images:
        raise SystemExit(f"{report.embedded} of {images} pictures were embedded")
    return {"cpu_us": 1e6 * cpu / images, "pictures_per_second": images / seconds}


def steps_alone(shard: Shard) -> dict[str, float]:
    """Reading, hashing and decoding, each over the same pictures in this thread."""
    import torch

    torch.set_num_threads(1)
    spec = find(BUNDLED, parse(None)).spec.pixels
    samples = [s for s in read_shard(shard) if isinstance(s, Sample)][:STEPS]
    images = [sample.read() for sample in samples]

    def read() -> int:
        return sum(1 for sample in read_shard(shard) if isinstance(sample, Sample) and sample.read())

    def hashed() -> int:
        return len([hashlib.sha256(image).hexdigest() for image in images])

    def decoded() -> int:
        return sum(1 for image in images for _ in decode(image, "png", spec))

    return {name: each_us(step) for name, step in (("read", read), ("hash", hashed), ("decode", decoded))}


def each_us(step: Callable[[], int]) -> float:
    cpu = time.process_time()
    count: Any = step()
    return 1e6 * (time.process_time() - cpu) / count


if __name__ == "__main__":
    main()
