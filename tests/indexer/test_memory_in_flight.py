"""The bytes of images in flight are bounded for the whole process, and no bound can bring a run to a stop."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.archive.shards import find_shards
from indexer.memory.budget import Budget
from indexer.pipeline.options import RunOptions
from indexer.pipeline.run import index
from indexer.store.table import EmbeddingStore
from tests.archives import png, write_tar
from tests.fakes import FakeEncoder

ROOT = Path(__file__).parents[2]


class Watched(Budget):
    """A budget that remembers the most that was held at once."""

    most = 0

    def add(self, nbytes):
        super().add(nbytes)
        self.most = max(self.most, self._used)

    def exchange(self, old, new, **rules):
        free = super().exchange(old, new, **rules)
        self.most = max(self.most, self._used)
        return free


def large(number, nbytes):
    return png(number) + bytes(nbytes)


@pytest.mark.parametrize("limit", [1, 1_000_000])
@pytest.mark.parametrize("remote", [False, True])
def test_a_run_ends_with_every_row_however_small_the_budget_is(tmp_path, monkeypatch, limit, remote):
    budget = Watched(limit)
    monkeypatch.setattr("indexer.memory.budget.UNDECODED", budget)
    size, names = 100_000, []
    for shard in range(6):
        images = [(f"{shard}-{i}.png", large(10 * shard + i, size + 1000 * i)) for i in range(5)]
        path = write_tar(tmp_path / f"{shard}.tar", images)
        names.append(f"pipe:cat {path}" if remote else str(path))
    encoder = FakeEncoder(batch_size=4, workers=3)
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", encoder.spec)
    report = index(find_shards(names).shards, store, encoder, RunOptions(commit_rows=7))
    assert (report.embedded, report.failed) == (30, 0)
    image = size + 10_000
    # beyond the limit: one image that goes alone, one of each of the four readers, counted twice while it is handed
    # over, and one on its way to a worker
    assert 0 < budget.most <= limit + 6 * image < 30 * size
    assert budget._used == 0


CHILD = """
import json, sys
import indexer.memory.budget as budget
from indexer.cli import group
from tests.memory import most_resident

budget.UNDECODED.nbytes, grown = int(sys.argv[1]) << 20, {}
for source in sys.argv[2:]:
    before = most_resident()
    try:
        group.main(["index", source, source + ".db"])
    except SystemExit as end:  # 1 where more than half of the images are none
        assert end.code in (0, None, 1), end.code
    grown[source.rpartition("/")[2]] = most_resident() - before >> 20
print(json.dumps(grown))
"""


def bombs(folder, count, nbytes):
    """Archives of few bytes whose images have `nbytes` zeros each."""
    zeros = bytes(nbytes)
    dictionary = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([zeros], pa.binary()))
    pq.write_table(
        pa.table({"image": dictionary}), folder / "a.parquet", compression="zstd", dictionary_pagesize_limit=2**31 - 1
    )
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for i in range(count):
            archive.writestr(f"{i}.png", zeros)
    with tarfile.open(folder / "a.tar.gz", "w:gz", compresslevel=1) as archive:
        for i in range(count):
            info = tarfile.TarInfo(f"{i}.png")
            info.size = nbytes
            archive.addfile(info, io.BytesIO(zeros))
    side = int(nbytes**0.5)
    np.savez_compressed(folder / "a.npz", train_images=np.zeros((count, side, side), np.uint8))
    return [str(folder / name) for name in ("a.parquet", "a.zip", "a.tar.gz", "a.npz")]


def grown_in_a_child(folder, budget_mib, sources):
    small = write_tar(folder / "small.tar", [(f"{i}.png", png(i)) for i in range(40)])
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(budget_mib), str(small), *sources], cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_archives_of_large_images_take_the_budget_and_a_few_images(tmp_path):
    mib = 16
    grown = grown_in_a_child(tmp_path, 4 * mib, bombs(tmp_path, 60, mib << 20))
    assert grown.pop("small.tar") > 50  # the libraries and the encoder: it was run
    for name in grown:
        store = EmbeddingStore.open(str(tmp_path / f"{name}.db"))
        assert store.count() + store.failures().num_rows == 60, name
    # 60 images are 960 MiB, and an unbounded run held 426 MiB of the Parquet file's. Those of the npz are decoded too,
    # by two workers, to 8 bytes a pixel. Beside the budget, 6 to 13 images were seen in twenty runs: what readers and
    # workers have in hand, and what malloc keeps.
    decoded = 2 * 8 * mib
    assert grown.pop("a.npz") < (4 + 16) * mib + decoded
    assert sum(grown.values()) < (4 + 16) * mib, grown
