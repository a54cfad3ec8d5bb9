"""Results of probes and of comparisons in folders beside a database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.errors import IndexerError, RowNotFound
from indexer.jsonable import jsonable
from indexer.serve.http.beside import files_beside
from indexer.store.table import EmbeddingStore
from probes.evaluation.metrics import HEADLINE
from probes.runs.compare import Comparison
from probes.runs.result import ProbeResult
from probes.runs.result_files import COMPARISON, RESULT, read_comparison, read_result


@dataclass(frozen=True)
class Listed:
    """One result and its folder."""

    folder: Path
    result: ProbeResult

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass(frozen=True)
class ListedComparison:
    """One comparison and its folder."""

    folder: Path
    found: Comparison

    @property
    def name(self) -> str:
        return self.folder.name


def listed(store: EmbeddingStore) -> list[Listed]:
    """Results of this table's encoder, by folder; unreadable ones are left out."""
    found = [(file.parent, _result(store, file)) for file in files_beside(store, f"*/{RESULT}")]
    return [Listed(folder, result) for folder, result in found if result is not None]


def one(store: EmbeddingStore, name: str) -> Listed:
    """The result in the folder of this name. Raises RowNotFound."""
    for file in files_beside(store, f"*/{RESULT}"):
        if file.parent.name == name:
            result = _result(store, file)
            if result is not None:
                return Listed(file.parent, result)
    raise RowNotFound(f"no readable probe result of table {store.name} in a folder of that name beside the database.")


def comparisons(store: EmbeddingStore) -> list[ListedComparison]:
    """Comparisons of which this table is part, by folder; unreadable ones are left out."""
    found = [(file.parent, _comparison(store, file)) for file in files_beside(store, f"*/{COMPARISON}")]
    return [ListedComparison(folder, own) for folder, own in found if own is not None]


def one_comparison(store: EmbeddingStore, name: str) -> Comparison:
    """The comparison in the folder of this name. Raises RowNotFound."""
    for file in files_beside(store, f"*/{COMPARISON}"):
        if file.parent.name == name:
            found = _comparison(store, file)
            if found is not None:
                return found
    raise RowNotFound(f"no readable comparison with table {store.name} in a folder of that name beside the database.")


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


def comparison_as_json(found: ListedComparison) -> dict[str, Any]:
    """What a list of comparisons shows."""
    own = found.found
    facts: dict[str, Any] = jsonable({
        "name": found.name,
        "probe": own.results[0].request.probe,
        "labels": own.results[0].request.labels,
        "metric": own.metric,
        "rows": own.rows,
        "tables": [
            {"table": r.source.table, "encoder": r.source.encoder, "interval": r.test.metrics.get(own.metric)}
            for r in own.results
        ],
        "differences": own.differences,
    })  # fmt: skip
    return facts


def headline(result: ProbeResult) -> str:
    """The name of the metric that a list shows."""
    known = [name for name in HEADLINE if name in result.test.metrics]
    return known[0] if known else next(iter(result.test.metrics), "")


def _result(store: EmbeddingStore, file: Path) -> ProbeResult | None:
    try:
        result = read_result(file.parent)
    except (IndexerError, OSError):
        return None
    return result if result.source.fingerprint == store.spec.fingerprint else None


def _comparison(store: EmbeddingStore, file: Path) -> Comparison | None:
    try:
        found = read_comparison(file)
    except (IndexerError, OSError):
        return None
    tables = [(result.source.table, result.source.fingerprint) for result in found.results]
    return found if (store.name, store.spec.fingerprint) in tables else None
