"""What a table holds, in a form that two tables of the same archive can be compared by."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from indexer.store.table import EmbeddingStore
from tests.archives import archive, png, write_tar

LEDGER = ("shard", "identity", "status", "samples", "embedded", "failed", "adopted")


def odd_archive(root: Path, shards: int = 5, images: int = 4) -> Path:
    """Shards of different sizes, with JSON beside the images; one of them has files that fail, one breaks off."""
    folder = archive(root, shards, images)
    write_tar(folder / "bad.tar", [("x.png", b"\x89PNG no"), ("y.png", png(900)), ("z.txt", b"no image")])
    whole = write_tar(root / "whole.tar", [("u.png", png(901)), ("v.png", png(902, 200))])
    (folder / "cut.tar").write_bytes(whole.read_bytes()[: 512 * 20])
    whole.unlink()
    return folder


def contents(database: str, table: str | None = None) -> dict[str, Any]:
    """Rows by key with every column and the bits of the vector, keys that come twice, ledger and failures."""
    store = EmbeddingStore.open(database, table)
    names = sorted(
        {"shard", "member", "offset", "nbytes", "suffix", "part", "content", "meta", "norm", *store.columns()}
    )
    found = store.vectors(columns=["key", *names])
    keys = found.columns.column("key").to_pylist()
    doubled = [key for key, n in Counter(keys).items() if n > 1]
    rows = dict(zip(keys, found.columns.select(names).to_pylist(), strict=True))
    for key, vector in zip(keys, found.vectors, strict=True):
        rows[key]["vector"] = vector.tobytes()
    ledger = sorted(tuple(row[name] for name in LEDGER) for row in store.ledger().to_pylist())
    failures = sorted(tuple(row.values()) for row in store.failures().to_pylist())
    return {"rows": rows, "doubled": doubled, "ledger": ledger, "failures": failures}
