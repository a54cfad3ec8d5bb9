"""One stage measured in a process of its own, so that its memory is its own. Prints one line of JSON.

`python -m benchmarks.stages STAGE SHARDS SETTINGS`: STAGE is decode, model, products or end-to-end, SETTINGS the JSON
of `Settings`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Settings:
    """What is measured, and how."""

    encoder: str
    weights: str | None
    precision: str = "bf16"
    device: str = "auto"
    compiled: bool = True
    seconds: float = 20.0  # of the decode and model stages
    database: str = ""  # whose encoder this is, as int8 is kept with it
    table: str = ""  # of the database
    check: bool = False  # also the comparison with fp32 that `indexer index` makes: it costs memory


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_rss_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def side_by_side(work: Callable[[int], int], workers: int) -> dict[str, float]:
    """`work(worker)` in as many threads, each returning how many images it did → images and seconds."""
    done = [0] * workers

    def call(worker: int) -> None:
        done[worker] = work(worker)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(workers)]
    start, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    images = sum(done)
    return {
        "images": images,
        "seconds": seconds,
        "images_per_second": images / seconds,
        "cpu_seconds_per_image": cpu / images,  # hardly depends on what else the machine does
    }


def decode_alone(folder: Path, settings: Settings) -> dict[str, Any]:
    """Shards' images from memory → squares, one thread a core, for `settings.seconds`."""
    from indexer.cores import cores
    from indexer.encoders.backends.cpu import use_one_thread_beside_others
    from indexer.encoders.families.weights import parse
    from indexer.encoders.loading import find
    from indexer.pixels import decode

    spec = find(settings.encoder, parse(settings.weights)).spec
    images = first_images(folder, 500)
    workers = cores()

    def work(worker: int) -> int:
        use_one_thread_beside_others()
        first = worker * len(images) // workers  # each meets every image in turn: large ones take four times as long
        end, done = time.perf_counter() + settings.seconds, 0
        while time.perf_counter() < end:
            for _ in range(8):
                for _picture in decode(images[(first + done) % len(images)], "jpg", spec.pixels):
                    pass
                done += 1
        return done

    work_warm(decode, images, spec)
    return side_by_side(work, workers)


def work_warm(decode: Callable[..., Any], images: Sequence[bytes], spec: Any) -> None:
    """Imports and first calls happen before the clock starts."""
    for data in images[:4]:
        list(decode(data, "jpg", spec.pixels))


def model_alone(settings: Settings) -> dict[str, Any]:
    """Full batches of noise in memory → vectors, by as many threads as the encoder takes, for `settings.seconds`."""
    encoder = _encoder(settings)
    facts = {"batch_size": encoder.batch_size, "workers": encoder.workers, "device": encoder.device}
    return full_batches(encoder, settings.seconds, encoder.workers) | facts


def full_batches(encoder: Any, seconds: float, workers: int) -> dict[str, float]:
    """Noise in memory → vectors, by so many threads."""
    size, n = encoder.spec.pixels.size, encoder.batch_size
    batch = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    for thread in [threading.Thread(target=encoder.embed, args=(batch,)) for _ in range(2)]:
        thread.start()
        thread.join()

    def work(_: int) -> int:
        end, done = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            encoder.embed(batch)
            done += n
        return done

    return side_by_side(work, workers)


def products_alone(settings: Settings) -> dict[str, Any]:
    """As many multiplications as the model's layers take, and nothing else: one product after the other, one a core.

    A yardstick: products of a transformer's own shape by the library's fastest code, the weights warm. What is left of
    the model's time is attention's inner products and everything that is no product.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from indexer.cores import cores
    from indexer.encoders.backends.cpu import use_one_thread_beside_others
    from indexer.encoders.backends.normalise import DTYPES
    from indexer.encoders.families.weights import parse
    from indexer.encoders.loading import find
    from indexer.encoders.rewritings.packed import can_pack, packed_linears

    definition = find(settings.encoder, parse(settings.weights))
    towers, size = definition.build(), definition.spec.pixels.size
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see into it
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        towers.image(torch.zeros(1, 3, size, size))
    an_image = counter.get_total_flops()
    rows, inner, outer = 800, 768, 3072  # 16 pictures of ViT-B/32 in its widest layer
    dtype, times = DTYPES[settings.precision], 16

    def work(_: int) -> int:
        use_one_thread_beside_others()
        x = torch.randn(rows, inner).to(dtype)
        layer = torch.nn.Sequential(torch.nn.Linear(inner, outer).to(dtype))
        if can_pack():
            packed_linears(layer, set(layer))
        with torch.inference_mode():
            for _ in range(times):
                layer(x)
            end, done = time.perf_counter() + settings.seconds, 0
            while time.perf_counter() < end:
                for _ in range(times):
                    layer(x)
                done += times * 2 * rows * inner * outer
        return int(done / an_image)

    return side_by_side(work, cores()) | {"flops_of_an_image": an_image}


def end_to_end(folder: Path, settings: Settings) -> dict[str, Any]:
    """index() over every shard into a fresh table; its own report, and the memory it took."""
    from indexer.archive.shards import find_shards
    from indexer.encoders import precision_check
    from indexer.pipeline.run import Hooks, index
    from indexer.pixels import decode
    from indexer.store.table import EmbeddingStore

    encoder = _encoder(settings)
    size = encoder.spec.pixels.size
    encoder.embed(np.zeros((encoder.batch_size, size, size, 3), np.uint8))  # what it allocates is the model's
    loaded = rss_bytes()
    work_warm(decode, first_images(folder, 4), encoder.spec)  # as the stages that it is compared with
    hooks = Hooks(precision_check=lambda pictures: precision_check(encoder, pictures)) if settings.check else Hooks()
    with tempfile.TemporaryDirectory() as db:
        store = EmbeddingStore.create(db, "t", encoder.spec)
        cpu = time.process_time()
        report = index(find_shards([str(folder)]).shards, store, encoder, None, hooks)
        cpu = time.process_time() - cpu
    if report.failed:
        raise SystemExit(f"{report.failed} images failed: {report.reasons}")
    return {
        "images": report.embedded,
        "seconds": report.seconds,
        "images_per_second": report.images_per_second,
        "cpu_seconds_per_image": cpu / report.embedded,
        "busy_share": {s.name: s.busy_seconds / (s.threads * report.seconds) for s in report.stages},
        "bottleneck": report.bottleneck,
        "device": encoder.device,
        "batch_size": encoder.batch_size,
        "precision_cosine": report.precision_cosine,
        "model_bytes": encoder.parameter_bytes,
        "loaded_rss_bytes": loaded,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def _encoder(settings: Settings) -> Any:
    from indexer.encoders import load, load_spec
    from indexer.store.table import EmbeddingStore

    if settings.database:
        return load_spec(EmbeddingStore.open(settings.database, settings.table).spec)
    return load(
        settings.encoder,
        weights=settings.weights,
        precision=settings.precision,
        device=settings.device,
        compiled=settings.compiled,
    )


def first_images(folder: Path, count: int) -> list[bytes]:
    from indexer.archive.reader import read_shard
    from indexer.archive.shards import find_shards
    from indexer.types import Sample

    samples = (s for shard in find_shards([str(folder)]).shards for s in read_shard(shard))
    return list(islice((s.image for s in samples if isinstance(s, Sample)), count))


def main(stage: str, folder: str, settings: str) -> None:
    from indexer.malloc import keep_freed_memory

    chosen = Settings(**json.loads(settings))
    keep_freed_memory()  # as a run does, so that the stages alone have it too
    stages: dict[str, Callable[[], dict[str, Any]]] = {
        "decode": lambda: decode_alone(Path(folder), chosen),
        "model": lambda: model_alone(chosen),
        "products": lambda: products_alone(chosen),
        "end-to-end": lambda: end_to_end(Path(folder), chosen),
    }
    print(json.dumps(stages[stage]()))


if __name__ == "__main__":
    main(*sys.argv[1:])
