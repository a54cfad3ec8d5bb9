"""Tables and folders of a stated number of cheap rows, for the measurements of `benchmarks.scale`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np

from indexer.archive.shards import find_shards
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.store.writing import compaction
from indexer.types import (
    EmbeddingBatch,
    EmbeddingRow,
    EncoderSpec,
    Failure,
    Float16,
    PixelSpec,
    Place,
    Shard,
    ShardResult,
)

# Of a commit, and of a full fragment. Lance keeps 0.27 MB of a fragment's metadata in its cache: 0.3 bytes a row of a
# real table, whose full fragments have 1,048,576 rows. With fragments of 25,000 rows it would be 11 bytes a row, with
# these it is 1.3. The smallest table has one whole fragment, so that what is held of one fragment is constant.
FULL_ROWS = 200_000
FAILURES = 25_000  # of a commit
SECOND_DIM = 8  # of the table that `compare` has beside the first
PATIENT_ROWS = 5
LABELLED = 100  # one patient in so many has a label
FOLDER_FILES = 1000
PNG = b"\x89PNG\r\n\x1a\n"


def spec(dim: int) -> EncoderSpec:
    half = (0.5, 0.5, 0.5)
    return EncoderSpec("numbers", "random:0", "pooled", dim, half, half, "fp32", PixelSpec(size=8, resize=8))


def make_table(database: Path, name: str, n: int, dim: int) -> None:
    """A table of n unit rows; the vectors of two classes differ in their first number, 1 % of the rows say which."""
    store = EmbeddingStore.create(str(database), name, spec(dim))
    with mock.patch.object(compaction, "FULL_ROWS", FULL_ROWS), StoreWriter(store) as writer:
        for start in range(0, n, FULL_ROWS):
            numbers = range(start, min(start + FULL_ROWS, n))
            rows = tuple(_row(i, f"s{start:09d}") for i in numbers)
            batch = EmbeddingBatch(rows, _vectors(numbers, dim), np.ones(len(rows), np.float32))
            shard = Shard(f"s{start:09d}", f"s{start:09d}", "1")
            writer.commit([ShardResult(shard, (batch,), (), len(rows))])


def make_labels(path: Path, n: int) -> None:
    """A CSV with a value for each of the n rows of `make_table`."""
    with path.open("w") as file:
        file.write("key,grade\n")
        file.writelines(f"{key(i)},{i % 7}\n" for i in range(n))


def make_failures(database: Path, n: int) -> None:
    """A table of one row and n failures."""
    store = EmbeddingStore.create(str(database), "t", spec(SECOND_DIM))
    with StoreWriter(store) as writer:
        for start in range(0, n, FAILURES):
            numbers, name = range(start, min(start + FAILURES, n)), f"s{start:09d}"
            row = EmbeddingBatch((_row(start, name),), _vectors(range(1), SECOND_DIM), np.ones(1, np.float32))
            failures = tuple(
                Failure(name, key(i), "decode", "corrupt image", "cut", 0, 9, "png", "m") for i in numbers[1:]
            )
            writer.commit([ShardResult(Shard(name, name, "1"), (row,), failures, len(numbers))])


def make_folder(folder: Path, n: int) -> None:
    """n files named and beginning like a PNG, a thousand in each of its folders."""
    for i in range(n):
        below = folder / f"{i // FOLDER_FILES:05d}"
        if i % FOLDER_FILES == 0:
            below.mkdir(parents=True)
        (below / f"{key(i)}.png").write_bytes(PNG)


def make_indexed(folder: Path, database: Path) -> None:
    """A table that says that all of `folder` is done. Its rows have no file's name: the ledger alone is asked."""
    from tests.fakes import FakeEncoder

    store = EmbeddingStore.create(str(database), "t", FakeEncoder().spec)
    with StoreWriter(store) as writer:
        shards = find_shards([str(folder)]).shards
        n = sum(1 for path in folder.glob("*/*.png") if path.name)
        writer.commit(list(_results(shards, n, store.dim)))


def _results(shards: tuple[Shard, ...], n: int, dim: int) -> Iterator[ShardResult]:
    each = -(-n // len(shards))
    for number, shard in enumerate(shards):
        numbers = range(number * each, min((number + 1) * each, n))
        rows = tuple(_row(i, shard.name) for i in numbers)
        batch = EmbeddingBatch(rows, _vectors(numbers, dim), np.ones(len(rows), np.float32))
        yield ShardResult(shard, (batch,), (), len(rows))


def key(i: int) -> str:
    return f"k{i:010d}"


def _row(i: int, shard: str) -> EmbeddingRow:
    patient = i // PATIENT_ROWS
    facts = {"patient": f"p{patient:09d}"}
    if patient % LABELLED == 0:
        facts["label"] = "ab"[patient // LABELLED % 2]
    return EmbeddingRow(key(i), Place(shard, f"{key(i)}.png", 0, 0, "png"), f"{i:064x}", facts)


def _vectors(numbers: range, dim: int) -> Float16:
    rng = np.random.default_rng(numbers.start)
    x = rng.standard_normal((len(numbers), dim)).astype(np.float32)
    x[:, 0] += np.array([0.5, -0.5])[np.arange(numbers.start, numbers.stop) // (PATIENT_ROWS * LABELLED) % 2]
    unit: Float16 = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    return unit
