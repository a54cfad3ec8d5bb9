"""Probe results beside a database: their list, and their report pages. They are data: read, checked, never run."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from indexer.errors import IndexerError, RowNotFound
from indexer.jsonable import jsonable
from indexer.store.table import EmbeddingStore
from probes.evaluation.metrics import HEADLINE
from probes.runs.result import ProbeResult

RESULT = "result.json"
MOST_RESULTS = 200
MOST_BYTES = 16 << 20  # of a result that is read


@dataclass(frozen=True)
class Listed:
    """One result folder beside the database."""

    name: str  # of the folder
    result: ProbeResult


def listed(store: EmbeddingStore) -> list[Listed]:
    """Results of this table's encoder in folders beside the database, by name; unreadable ones are left out."""
    return [Listed(folder.name, result) for folder in _folders(store) if (result := _of(store, folder)) is not None]


def one(store: EmbeddingStore, name: str) -> ProbeResult:
    """The result in the folder of this name. Raises RowNotFound."""
    for folder in _folders(store):
        if folder.name == name:
            result = _of(store, folder)
            if result is not None:
                return result
    raise RowNotFound(f"no readable probe result of table {store.name} in a folder of that name beside the database.")


def as_json(found: Listed) -> dict[str, Any]:
    """What a list of results shows."""
    result = found.result
    metric = headline(result)
    return {
        "name": found.name,
        "probe": result.request.probe,
        "labels": list(result.request.labels),
        "group": result.request.group,
        "test_rows": result.test.rows,
        "metric": metric,
        "interval": jsonable(result.test.metrics.get(metric)),
        "version": result.source.version,
    }


def headline(result: ProbeResult) -> str:
    """The name of the metric that a list shows."""
    known = [name for name in HEADLINE if name in result.test.metrics]
    return known[0] if known else next(iter(result.test.metrics), "")


def _folders(store: EmbeddingStore) -> list[Path]:
    """Plain folders beside the database that hold a result of acceptable size."""
    if store.path is None:
        return []
    beside = sorted(Path(store.uri).resolve().parent.glob(f"*/{RESULT}"))
    sound = (p.parent for p in beside if not p.is_symlink() and not p.parent.is_symlink() and _is_small(p))
    return list(islice(sound, MOST_RESULTS))


def _is_small(file: Path) -> bool:
    return file.is_file() and file.stat().st_size <= MOST_BYTES


def _of(store: EmbeddingStore, folder: Path) -> ProbeResult | None:
    from probes.runs.result_files import read_result

    try:
        result = read_result(folder)
    except (IndexerError, OSError):
        return None
    return result if result.source.fingerprint == store.spec.fingerprint else None
