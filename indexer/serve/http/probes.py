"""Results of probes and of comparisons in folders beside a database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from indexer.errors import IndexerError, RowNotFound
from indexer.jsonable import jsonable
from indexer.serve.http.beside import files_beside
from indexer.store.table import EmbeddingStore
from probes.evaluation.metrics import HEADLINE
from probes.runs.compare import Comparison
from probes.runs.result import ProbeResult
from probes.runs.result_files import COMPARISON, RESULT, read_comparison, read_result

Read = TypeVar("Read")


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
    return [Listed(*own) for own in _readable(store, RESULT, _result)]


def one(store: EmbeddingStore, name: str) -> Listed:
    """The result in the folder of this name. Raises RowNotFound."""
    for own in _readable(store, RESULT, _result, name):
        return Listed(*own)
    raise RowNotFound(f"no readable probe result of table {store.name} in a folder of that name beside the database.")


def comparisons(store: EmbeddingStore) -> list[ListedComparison]:
    """Comparisons of which this table is part, by folder; unreadable ones are left out."""
    return [ListedComparison(*own) for own in _readable(store, COMPARISON, _comparison)]


def one_comparison(store: EmbeddingStore, name: str) -> Comparison:
    """The comparison in the folder of this name. Raises RowNotFound."""
    for _, found in _readable(store, COMPARISON, _comparison, name):
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
        "cases": own.cases,
        "tables": [
            {"table": r.source.table, "encoder": r.source.encoder, "interval": scored.metrics.get(own.metric)}
            | ({"level": r.request.level} if own.cases else {})
            for r, scored in zip(own.results, own.scored, strict=True)
        ],
        "differences": own.differences,
    })  # fmt: skip
    return facts


def headline(result: ProbeResult) -> str:
    """The name of the metric that a list shows."""
    known = [name for name in HEADLINE if name in result.test.metrics]
    return known[0] if known else next(iter(result.test.metrics), "")


def _readable(
    store: EmbeddingStore, file_name: str, read: Callable[[EmbeddingStore, Path], Read | None], name: str | None = None
) -> Iterator[tuple[Path, Read]]:
    """Folders beside the database, or the one of this name, with what is read of their file; None is left out."""
    for file in files_beside(store, f"*/{file_name}"):
        if name in (None, file.parent.name) and (found := read(store, file)) is not None:
            yield file.parent, found


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
