"""Records that lie beside a table, as JSON types: failures, runs."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from indexer.addresses import join
from indexer.jsonable import jsonable
from indexer.pipeline.records.files import MANIFEST, InBucket
from indexer.serve.http.beside import MOST_BYTES, MOST_FILES
from indexer.store.table import EmbeddingStore

LISTED = ("shard", "key", "stage", "reason", "detail", "member")


def failures(view: EmbeddingStore, limit: int, offset: int) -> dict[str, Any]:
    """Counts by stage and reason, most frequent first, and `limit` rows from `offset`."""
    counts: Counter[tuple[str, str]] = Counter()
    for batch in view.scan_failures(["stage", "reason"]):
        counts.update(zip(batch.column("stage").to_pylist(), batch.column("reason").to_pylist(), strict=True))
    every = (row for batch in view.scan_failures(LISTED) for row in batch.to_pylist())
    return {
        "table": view.name,
        "count": sum(counts.values()),
        "reasons": [{"stage": s, "reason": r, "count": n} for (s, r), n in counts.most_common()],
        "rows": list(islice(every, offset, offset + limit)),
        "retry": f"indexer failures DB --table {view.name} --retry",
    }


def run_records(store: EmbeddingStore) -> list[dict[str, Any]]:
    """The newest records first; one that cannot be read is left out."""
    if store.path is None:
        files = InBucket(join(store.uri, f"{store.name}.runs"))
        newest = files.names()[::-1][:MOST_FILES]
        return [{**facts, "name": name} for name in newest if (facts := files.read(name))]
    folder = Path(store.uri) / f"{store.name}.runs"
    found = sorted(folder.glob(f"*/{MANIFEST}"), key=lambda path: path.parent.name, reverse=True)
    return [{**facts, "name": path.parent.name} for path in found[:MOST_FILES] if (facts := _read(path))]


def _read(path: Path) -> dict[str, Any]:
    """A JSON record; empty where it is not a plain file with one."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_BYTES:
            return {}
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return jsonable(facts) if isinstance(facts, dict) else {}
