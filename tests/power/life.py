"""A table's life in steps that can each be done again: what is recorded, and what a rerun after a crash does.

`python -m tests.power.life FOLDER` lives it once, and writes a line into FOLDER/work/promises when a step's
word is given: from then on no power failure may take back what the step did.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

from indexer.ann.goal import Goal
from indexer.archive.shards import find_shards
from indexer.pipeline.options import RunOptions
from indexer.pipeline.retry import retry
from indexer.pipeline.run import Hooks, index
from indexer.search.index_build import build_index, refresh_index
from indexer.store.labelling.join import add_columns
from indexer.store.rows import TextVectors
from indexer.store.table import EmbeddingStore
from indexer.store.text import write_text
from indexer.store.writing import compaction
from indexer.types import Float32
from tests.archives import png, write_tar
from tests.fakes import FakeEncoder
from tests.progress import Recorder

GOAL = Goal(recall=0.9, latency_ms=50.0)
IMAGES = 6  # a shard
CHANGED = ("a", "d")  # shards that are other or new later
OFTEN = RunOptions(commit_rows=1, changed="replace")  # a commit for each shard


def hasten() -> None:
    """Compaction and clean-up come within a few commits, not after hundreds."""
    compaction.COMPACT_FRAGMENTS, compaction.RUN_FRAGMENTS, compaction.CLEAN_SECONDS = 3, 2, 0.0
    compaction.KEEP_VERSIONS = timedelta(0)


def archive(folder: Path, step: str) -> Path:
    """The shards as they are at this step: later one changes, and one more comes."""
    late = list(STEPS).index(step) >= list(STEPS).index("changed")
    shards = folder / "shards"
    shutil.rmtree(shards, ignore_errors=True)
    shards.mkdir(parents=True)
    for number, name in enumerate("abcd" if late else "abc"):
        changed = name == "a" and late
        members = []
        for seed in range(number * IMAGES + changed, (number + 1) * IMAGES + 2 * changed):
            seed = seed if seed < (number + 1) * IMAGES else seed + 1000
            data = png(seed, 16) if seed % IMAGES != 4 else b"no picture"
            members += [(f"im{seed}.png", data), (f"im{seed}.json", json.dumps({"n": seed, name: 1}).encode())]
        path = write_tar(shards / f"{name}.tar", members)
        os.utime(path, (1e9 + changed, 1e9 + changed))
    return shards


def _spoilt(vectors: Float32) -> Float32:
    return np.where(vectors[:, :1] > 2.0, np.float32(np.nan), vectors)


def _index(folder: Path, encoder: FakeEncoder, planned: Sequence[str], promise: Callable[[str], None]) -> None:
    store = EmbeddingStore.create(str(folder / "work" / "db"), "t", encoder.spec)
    shards = find_shards([str(folder / "shards")]).shards
    told = 0

    def tell(counts: dict[str, int]) -> None:
        nonlocal told
        if counts["shards"] > told:
            told = counts["shards"]
            promise(json.dumps(planned[:told]))

    index(shards, store, encoder, OFTEN, Hooks(Recorder(tell)))


def _first(folder: Path, promise: Callable[[str], None]) -> None:
    _index(folder, FakeEncoder(change=_spoilt), ["a", "b", "c"], promise)


def _labels(folder: Path, promise: Callable[[str], None]) -> None:
    add_columns(opened(folder), pa.table({"key": ["im1", "im7"], "grade": [3, 4], "site": ["x", "y"]}))


def _text(folder: Path, promise: Callable[[str], None]) -> None:
    eye = np.eye(16, dtype=np.float32)
    write_text(opened(folder), "site", TextVectors(("x", "y"), eye[:2], 1.0, None))
    write_text(opened(folder), "lesion", TextVectors(("yes", "no", "perhaps"), eye[:3], 1.0, None))


def _built(folder: Path, promise: Callable[[str], None]) -> None:
    build_index(opened(folder), GOAL)


def _retried(folder: Path, promise: Callable[[str], None]) -> None:
    retry(opened(folder), FakeEncoder(), OFTEN)


def _changed(folder: Path, promise: Callable[[str], None]) -> None:
    _index(folder, FakeEncoder(), CHANGED, promise)


def _labels_again(folder: Path, promise: Callable[[str], None]) -> None:
    more = {"site": ["z", "z"], "grade": [5, 6], "sex": ["F", "M"]}  # two columns that are there, and a new one
    add_columns(opened(folder), pa.table({"key": ["im2", "im7"], **more}))


def _refreshed(folder: Path, promise: Callable[[str], None]) -> None:
    refresh_index(opened(folder))


STEPS: dict[str, Callable[[Path, Callable[[str], None]], None]] = {
    "first": _first,
    "labels": _labels,
    "text": _text,
    "built": _built,
    "retried": _retried,
    "changed": _changed,
    "labels again": _labels_again,
    "refreshed": _refreshed,
}


def opened(folder: Path) -> EmbeddingStore:
    return EmbeddingStore.open(str(folder / "work" / "db"), "t")


def do(step: str, folder: Path, promise: Callable[[str], None] = lambda _: None) -> None:
    archive(folder, step)
    STEPS[step](folder, promise)


TOUCHES = {  # what a step changes; all else must stand as it was
    "first": ("rows", "shards", "failures"),
    "labels": ("rows",),
    "text": ("text",),
    "built": ("indexed",),
    "retried": ("rows", "shards", "failures"),
    "changed": ("rows", "shards", "failures"),
    "labels again": ("rows",),
    "refreshed": ("indexed",),
}
FROM_RUN = ("table_version", "finished_at")  # of the ledger: differ between any two runs


def state(folder: Path) -> dict[str, list[str]]:
    """All that must not depend on what happened on the way, read with Lance alone."""
    db = folder / "work" / "db"
    tables = {"rows": "t", "shards": "t.shards", "failures": "t.failures", "text": "t.text"}
    return {kind: _rows(db / f"{name}.lance") for kind, name in tables.items()} | {"indexed": _indexed(db / "t.faiss")}


def _rows(path: Path) -> list[str]:
    if not list(path.glob("_versions/[0-9]*.manifest")):
        return []
    try:
        rows = lance.dataset(str(path)).to_table().to_pylist()
    except BaseException as error:  # noqa: BLE001 - Lance's panics are no Exception
        return [f"cannot be read: {error}"]
    kept = [{k: v for k, v in row.items() if k not in FROM_RUN and v is not None} for row in rows]
    return sorted(json.dumps(row, sort_keys=True, default=str) for row in kept)


def _indexed(directory: Path) -> list[str]:
    if not (directory / "manifest.json").exists():
        return []
    facts = json.loads((directory / "manifest.json").read_text())
    with pa.OSFile(str(directory / facts["files"]["keys"]["name"])) as file:
        return sorted(pa.ipc.open_file(file).read_all().column(0).to_pylist())


def of_shards(rows: Sequence[str], names: Sequence[str]) -> set[str]:
    """The rows of these shards, by the names of their files."""
    return {row for row in rows if Path(json.loads(row)["shard"]).stem in names}


def main(folder: Path) -> None:
    hasten()
    promises = folder / "work" / "promises"
    with promises.open("ab", buffering=0) as out:
        for step in STEPS:
            out.write(f"begin {step}\n".encode())
            do(step, folder, lambda text: out.write(f"shards {text}\n".encode()))
            out.write(f"end {step}\n".encode())
            shutil.copytree(folder / "work" / "db", folder / "after" / step / "work" / "db", symlinks=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
