"""What `benchmarks.scale` measures: commands, the data that each runs on, and what each may cost."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

DIM = 64  # a vector held as float16 is then 128 bytes a row: far above every budget
SORTED_SET = 16.0  # bytes a row where a sorted set of hashes is needed
LINEAR = 1.15  # exponent of time, n log n and noise included
# Of the probes, whose exact search (kNN's own; each probe's audit of near-duplicates, test rows against fitted ones) is
# quadratic in the labelled rows (here 2,000 to 32,000): between 1, of reading the table, and 2. Measured: 1.12 to 1.37.
SEARCHED = 1.5


@dataclass(frozen=True)
class Case:
    """One command and what it may cost."""

    name: str
    data: str  # which of DATA it runs on
    run: Callable[[Path], object]  # takes the folder of one size
    bytes_a_row: float  # budget, before the noise
    exponent: float = LINEAR
    changes: bool = False  # it changes the data: each run gets a copy
    filled: int = 0  # the first size whose data fill what the command holds at most; memory is compared from there on


@dataclass(frozen=True)
class Data:
    """What several cases run on."""

    base: int  # rows, files or failures at size 1
    warm: int  # of the data that warms a process up
    make: Callable[[Path, int], None]


def command(program: str, *words: object) -> None:
    """A command line in this process, its output thrown away. Raises RuntimeError where it fails."""
    import importlib

    main = importlib.import_module(f"{program}.cli").main
    with (
        Path(os.devnull).open("w") as nowhere,
        mock.patch.object(sys, "argv", [program, *map(str, words)]),
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        try:
            main()
        except SystemExit as stop:
            if stop.code:
                raise RuntimeError(f"{program} {' '.join(map(str, words))}: exit code {stop.code}") from stop


def _make_rows(at: Path, n: int) -> None:
    from benchmarks.scale_data import SECOND_DIM, make_labels, make_table

    make_table(at / "db", "t", n, DIM)
    make_labels(at / "labels.csv", n)
    command("indexer", "build-ann", at / "db", "--table", "t", "--kind", "ivf-fp16")
    make_table(at / "db", "u", n, SECOND_DIM)


def _make_pairs(at: Path, n: int) -> None:
    from benchmarks.scale_data import make_table

    make_table(at / "db", "t", n, DIM)


def _make_failures(at: Path, n: int) -> None:
    from benchmarks.scale_data import make_failures

    make_failures(at / "db", n)


def _make_files(at: Path, n: int) -> None:
    from benchmarks.scale_data import make_folder, make_indexed

    make_folder(at / "images", n)
    make_indexed(at / "images", at / "db")


def _list(at: Path) -> None:
    from indexer.archive.shards import find_shards

    find_shards([str(at / "images")])


def _pack(at: Path) -> None:
    command("indexer", "pack", at / "images", at / "out", "--dry-run")


def _index(at: Path) -> None:
    from indexer.archive.shards import find_shards
    from indexer.pipeline.run import index
    from indexer.store.table import EmbeddingStore
    from tests.fakes import FakeEncoder

    shards = find_shards([str(at / "images")]).shards
    report = index(shards, EmbeddingStore.open(str(at / "db")), FakeEncoder())
    if report.images or report.shards_skipped != len(shards):
        raise RuntimeError(f"there was something to do: {report}")


def _writer(at: Path) -> None:
    from indexer.store.table import EmbeddingStore
    from indexer.store.writer import StoreWriter

    with StoreWriter(EmbeddingStore.open(str(at / "db"), "t")):
        pass


def _on(program: str, name: str, *words: str) -> Callable[[Path], None]:
    """`program name DB words`, on table t; {at} in a word is the folder of the size."""
    return lambda at: command(program, name, at / "db", "--table", "t", *(word.format(at=at) for word in words))


def _probe(name: str, *words: str) -> Callable[[Path], None]:
    options = ("--label", "label", "--group", "patient", "--replicates", "100")
    return lambda at: command("probes", name, at / "db", *words, *options)


DATA = {
    # What is read ahead (some 50 MB) is reached at 200,000 rows; a probe needs some labelled patients to warm up on.
    "rows": Data(200_000, 20_000, _make_rows),
    "files": Data(25_000, 1_000, _make_files),
    "failures": Data(25_000, 1_000, _make_failures),
    "pairs": Data(5_000, 1_000, _make_pairs),
}
CASES = (
    Case("list a folder", "files", _list, 0),
    Case("pack, dry run", "files", _pack, SORTED_SET),
    Case("index, nothing to do", "files", _index, SORTED_SET),
    Case("reopen a writer", "rows", _writer, SORTED_SET),
    Case("labels", "rows", _on("indexer", "labels", "{at}/labels.csv"), SORTED_SET, changes=True),
    Case("search, start and one query", "rows", _on("indexer", "search", "--key", "k0000000005"), 0),
    Case("near-duplicates", "pairs", _on("indexer", "near-duplicates"), SORTED_SET, exponent=2.1),
    # 200,000 rows are 64 MB: eight row groups, of which one is written while others are read
    Case("export .parquet", "rows", _on("indexer", "export", "{at}/out.parquet"), 0, filled=1),
    Case("export .npy", "rows", _on("indexer", "export", "{at}/out.npy"), 0),
    Case("health", "rows", _on("indexer", "health"), SORTED_SET),
    Case("info", "rows", _on("indexer", "info"), 0),
    Case("failures", "failures", _on("indexer", "failures"), 0),
    Case("failures --summary", "failures", _on("indexer", "failures", "--summary"), 0),
    Case("probes linear, 1 % labelled", "rows", _probe("linear", "--table", "t"), SORTED_SET, exponent=SEARCHED),
    Case("probes knn, 1 % labelled", "rows", _probe("knn", "--table", "t"), SORTED_SET, exponent=SEARCHED),
    Case("probes compare, 1 % labelled", "rows", _probe("compare", "--tables", "t,u", "--probe", "knn"), SORTED_SET,
         exponent=SEARCHED),
)  # fmt: skip
