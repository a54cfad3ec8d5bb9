"""The routes of labelling: part of the API, and its page."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import HTMLResponse, Response, StreamingResponse

from indexer.errors import ReadOnly
from indexer.jsonable import jsonable
from indexer.serve.labelling.bodies import LabelsBody, NextBody
from indexer.serve.labelling.labels import MOST_CLASSES, LabelColumns
from indexer.serve.labelling.probe import FEWEST
from indexer.serve.labelling.session import Labelling, Standing
from indexer.serve.limits import Rate
from indexer.serve.page.assets import page
from indexer.serve.page.shared import shared
from indexer.serve.settings import Settings
from indexer.serve.tables import Tables
from indexer.store.table import EmbeddingStore

READ_ONLY = "this server only reads. Start it with `indexer serve DB --labels COLUMN` to label images."
PATIENT = "patient"  # the group column that the page begins with, where the table has it

OfGroup = Annotated[str | None, Query(max_length=512, description="Column of groups, e.g. patient.")]


class Labellings:
    """The labelling of each table of a server."""

    def __init__(self, tables: Tables, settings: Settings) -> None:
        self._tables, self._column = tables, settings.labels
        if settings.labels is not None:
            LabelColumns(settings.labels)  # a name that cannot be a column is refused at the start
        self._made: dict[str, Labelling] = {}

    def allowed(self) -> str:
        """The column. Raises ReadOnly where the server only reads."""
        if self._column is None:
            raise ReadOnly(READ_ONLY)
        return self._column

    def of(self, table: str) -> Labelling:
        """Raises StoreNotFound, InputError."""
        column, served = self.allowed(), self._tables.get(table)

        def opened() -> EmbeddingStore:
            return self._tables.opened_again(table)

        return self._made.setdefault(table, Labelling(served.searcher, opened, column))


def labelling(tables: Tables, settings: Settings, rate: Rate) -> APIRouter:
    """The routes. Without `settings.labels` they answer 403."""
    found = Labellings(tables, settings)
    router = APIRouter(dependencies=[Depends(found.allowed)])
    _api(router, found, rate)
    _page(router, tables, found)
    return router


def _api(router: APIRouter, found: Labellings, rate: Rate) -> None:
    @router.get("/api/v1/tables/{table}/labels")
    def standing(table: str, group: OfGroup = None) -> dict[str, Any]:
        """Counts of the labels, and the accuracy of their probe on the images drawn at random."""
        return {"table": table, **_standing(found.of(table).standing(group or None))}

    @router.post("/api/v1/tables/{table}/labels")
    def write(table: str, body: LabelsBody) -> dict[str, Any]:
        """Write labels in one commit, all or none; then as GET. 423 where another process is writing."""
        own = found.of(table)
        own.write([label.label_of() for label in body.labels], body.by.strip(), body.group or None)
        return {"table": table, **_standing(own.standing(body.group or None))}

    @router.post("/api/v1/tables/{table}/labels/next")
    def following(table: str, body: NextBody) -> dict[str, Any]:
        """The next images to label. Send `shown` back with the label, and do not tell it to who labels."""
        if body.query is not None and body.query.embeds:
            rate.take()
        query = None if body.query is None else body.query.query()
        by, images = found.of(table).next(body.group or None, body.limit, body.skipped, query)
        return {"table": table, "ordered_by": by, "images": [{"key": key, "shown": shown} for key, shown in images]}

    @router.get("/api/v1/tables/{table}/labels.csv")
    def exported(table: str) -> Response:
        """All labels, as `indexer labels DB FILE --on key` reads them."""
        own = found.of(table)
        name = own.columns.label
        headers = {"content-disposition": f'attachment; filename="{name}.csv"'}
        return StreamingResponse(_lines(own.exported()), media_type="text/csv; charset=utf-8", headers=headers)


def _page(router: APIRouter, tables: Tables, found: Labellings) -> None:
    @router.get("/t/{table}/label", include_in_schema=False)
    def label(table: str) -> HTMLResponse:
        own = found.of(table)
        view = tables.get(table).searcher.snapshot.view
        groups = [name for name in view.columns() if name not in (*own.columns.all, "meta")]
        return page(
            "label.html", **shared(tables, table, "/label"), column=own.columns.label, groups=groups,
            patient=PATIENT if PATIENT in groups else "", most=MOST_CLASSES, text=tables.get(table).has_text,
        )  # fmt: skip


def _standing(found: Standing) -> dict[str, Any]:
    estimate = found.accuracy
    facts: dict[str, Any] = jsonable({
        "version": found.version,
        "column": found.columns.label,
        "classes": found.classes,
        "waiting": found.waiting,
        "learnt": list(found.learnt),
        "fewest": FEWEST,
        "random": found.random,
        "accuracy": None if estimate is None else vars(estimate),
        "always": None if found.always is None else {"class": found.always[0], "accuracy": found.always[1]},
    })  # fmt: skip
    return facts


def _lines(rows: Iterable[tuple[str | None, ...]]) -> Iterator[str]:
    for row in rows:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(row)
        yield line.getvalue()
