"""The HTTP API of what other commands made of a table: probe results, comparisons, near-duplicate pairs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from indexer.duplicates.options import NearOptions
from indexer.jsonable import jsonable
from indexer.serve.http import pairs, probes
from indexer.serve.http.bodies import Offset
from indexer.serve.http.predictions import read_calls
from indexer.serve.http.probes import Listed
from indexer.serve.tables import ServedTable, Tables
from probes.evaluation.metrics import ECE_BINS

MOST_ENTRIES = 1_000  # of one page

Limit = Annotated[int, Query(ge=1, le=MOST_ENTRIES)]
ClassName = Annotated[str | None, Query(max_length=1_000)]
Bin = Annotated[int | None, Query(ge=0, lt=ECE_BINS, description="Of the calibration, counted from 0.")]
File = Annotated[str | None, Query(max_length=255, description="A file beside the database; else computed now.")]
Column = Annotated[str | None, Query(max_length=512)]
Cosine = Annotated[float, Query(gt=0, le=1, description="Lowest cosine of a pair that is computed.")]
Across = Literal["any", "groups", "splits"]


def results(tables: Tables) -> APIRouter:
    """The routes below /api/v1."""
    router = APIRouter(prefix="/api/v1/tables/{table}")
    _probes(router, tables)
    _duplicates(router, tables)
    return router


def _probes(router: APIRouter, tables: Tables) -> None:
    @router.get("/probes")
    def listed(table: str) -> list[dict[str, Any]]:
        """Results of probes that lie in folders beside the table."""
        return [probes.as_json(found) for found in probes.listed(tables.get(table).store)]

    @router.get("/probes/{name}")
    def one(table: str, name: str) -> dict[str, Any]:
        """One result, whole, as in its result.json."""
        found: dict[str, Any] = jsonable(probes.one(tables.get(table).store, name).result)
        return found

    @router.get("/probes/{name}/predictions")
    def called(
        table: str, name: str, true: ClassName = None, called: ClassName = None, bin: Bin = None,
        limit: Limit = 48, offset: Offset = 0,
    ) -> dict[str, Any]:  # fmt: skip
        """Test images of a cell of the confusion matrix or of a bin of the calibration: wrong ones first, then by
        confidence.
        """
        served = tables.get(table)
        return predicted(served, probes.one(served.store, name), (true, called, bin), limit, offset)

    @router.get("/comparisons")
    def compared(table: str) -> list[dict[str, Any]]:
        """Comparisons with other tables that lie in folders beside the table."""
        return [probes.comparison_as_json(found) for found in probes.comparisons(tables.get(table).store)]

    @router.get("/comparisons/{name}")
    def comparison(table: str, name: str) -> dict[str, Any]:
        """One comparison, whole, as in its comparison.json."""
        found: dict[str, Any] = jsonable(probes.one_comparison(tables.get(table).store, name))
        return found


def _duplicates(router: APIRouter, tables: Tables) -> None:
    @router.get("/duplicates/files")
    def files(table: str) -> list[dict[str, Any]]:
        """Files of near-duplicate pairs beside the database that are of this table."""
        return [{"file": path.name, **vars(facts)} for path, facts in pairs.files_of(tables.get(table))]

    @router.get("/duplicates")
    def near(
        table: str, file: File = None, threshold: Cosine = NearOptions.threshold, group: Column = None,
        split: Column = None, across: Across = "any", cluster: Annotated[int | None, Query(ge=0)] = None,
        limit: Limit = 24, offset: Offset = 0,
    ) -> dict[str, Any]:  # fmt: skip
        """Near-duplicate pairs, the closest first: of each cluster the closest, or all of one cluster."""
        served = tables.get(table)
        if file is None:
            options = NearOptions(threshold, None, group or None, split or None)
            found = pairs.computed_pairs(served, options)
        else:
            found = pairs.read_pairs(served, file)
        return pairs.page_of(served, found, pairs.Shown(across, cluster, limit, offset))


def predicted(
    served: ServedTable, found: Listed, which: tuple[str | None, str | None, int | None], limit: int, offset: int
) -> dict[str, Any]:
    """A page of a result's test images of (true class, called class, bin). Raises RowNotFound, InputError."""
    calls = read_calls(found)
    chosen = calls.select(*which)
    return {
        "table": served.store.name,
        "result": found.name,
        "version": found.result.source.version,
        "newest_version": served.searcher.snapshot.version,
        "classes": list(calls.classes),
        "confusion": [] if calls.labels else calls.confusion().tolist(),
        "bins": calls.bins(),
        "count": len(chosen),
        "images": calls.entries(chosen[offset : offset + limit]),
    }
