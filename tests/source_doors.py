"""The same twenty pictures through every door: `python -m tests.source_doors` prints the table of what each gave."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from indexer.archive.shards import find_shards
from indexer.archive.tables.named import TableOptions
from indexer.pipeline.options import RunOptions
from indexer.pipeline.run import index
from indexer.store.table import EmbeddingStore
from tests.fakes import FakeEncoder
from tests.sources import (
    as_csv,
    as_datasets,
    as_folder,
    as_lmdb,
    as_mds,
    as_npz,
    as_parquet,
    as_tar,
    as_zip,
)  # fmt: skip

N = 20
DOORS = {
    "folder": lambda p: (as_folder(p / "in", N), {}),
    "tar": lambda p: (as_tar(p / "s.tar", N), {}),
    "zip": lambda p: (as_zip(p / "s.zip", N), {}),
    "parquet, struct": lambda p: (as_parquet(p / "s.parquet", N), {}),
    "parquet of datasets": lambda p: (as_datasets(p / "s.parquet", N), {}),
    "parquet, bytes": lambda p: (as_parquet(p / "s.parquet", N, "bytes", use_dictionary=False), {}),
    "parquet, paths": lambda p: (as_parquet(p / "s.parquet", N, "path"), {"image": "image"}),
    "npz": lambda p: (as_npz(p / "s.npz", N), {}),
    "csv": lambda p: (as_csv(p / "s.csv", N), {"image": "file"}),
    "lmdb": lambda p: (as_lmdb(p / "s.lmdb", N), {}),
    "mds": lambda p: (as_mds(p / "set" / "s.mds", N), {}),
}
KEYS = {
    "folder": "{:02d}.ppm", "tar": "{:02d}", "zip": "{:02d}.ppm", "npz": "s/train/{}", "csv": "listed/{:02d}.ppm",
    "parquet, struct": "s/{}", "parquet, bytes": "s/{}", "parquet, paths": "files/{:02d}.ppm",
    "parquet of datasets": "s/{}", "lmdb": "{:02d}.ppm", "mds": "set/s/{}",
}  # fmt: skip


def run(source, db, encoder=None, tables=None, **options):
    encoder = encoder or FakeEncoder()
    store = EmbeddingStore.create(str(db), "t", encoder.spec)
    shards = find_shards([str(source)], tables=TableOptions(**(tables or {}))).shards
    return index(shards, store, encoder, RunOptions(**options))


def content(db):
    """content hash → (vector's bits, key, metadata) of each row."""
    store = EmbeddingStore.open(str(db))
    read = store.vectors(columns=["key", "content", "meta"])
    out = {}
    for row, vector in zip(read.columns.to_pylist(), read.vectors, strict=True):
        out[row["content"]] = (vector.tobytes(), row["key"], json.loads(row["meta"]))
    assert len(out) == store.count()
    return out


def digest(parts: Any) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


def main() -> int:
    click.echo(f"{'door':20} rows failed  content       vectors")
    seen = set()
    for door, make in DOORS.items():
        with tempfile.TemporaryDirectory() as folder:
            source, tables = make(Path(folder))
            report = run(source, Path(folder) / "db", tables=tables)
            found = dict(sorted(content(Path(folder) / "db").items()))
        facts = digest(map(bytes.fromhex, found)), digest(row[0] for row in found.values())
        seen.add((report.embedded, report.failed, *facts))
        click.echo(f"{door:20} {report.embedded:4} {report.failed:6}  {facts[0]}  {facts[1]}")
    click.echo("equal" if len(seen) == 1 else "NOT EQUAL")
    return len(seen) != 1


if __name__ == "__main__":
    sys.exit(main())
