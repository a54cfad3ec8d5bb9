"""The pages of probe results, comparisons and near-duplicate pairs."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse

from indexer.duplicates.options import NearOptions
from indexer.errors import Busy, InputError
from indexer.serve.http import pairs, probes
from indexer.serve.http.answers import shown_columns
from indexer.serve.http.bodies import Offset
from indexer.serve.http.predictions import has_calls
from indexer.serve.http.results import Across, Bin, ClassName, Column, Cosine, File, predicted
from indexer.serve.page.assets import page
from indexer.serve.page.shared import shared
from indexer.serve.tables import Tables
from probes.evaluation.metrics import ECE_BINS
from probes.reporting.comparison import comparison_html
from probes.reporting.html import report_html
from probes.reporting.words import NAMES, plus_minus, shown_as, with_interval
from probes.runs.result import ProbeResult

SIDE = 150  # pixels of a picture in a report, as its style sheet shows it
# A report is one file with its style in it, and no script; its pictures are of this server
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"
IMAGES, PAIRS = 48, 24  # of a page
SHADES = 10  # of a cell of the confusion matrix
MOST_CELLS = 12  # classes of a matrix that is drawn; of more the most frequent errors are listed
MOST_ERRORS = 40


def result_pages(tables: Tables) -> APIRouter:
    """The routes of the pages."""
    router = APIRouter(include_in_schema=False)
    _probes(router, tables)
    _duplicates(router, tables)
    return router


def _probes(router: APIRouter, tables: Tables) -> None:
    @router.get("/t/{table}/probes")
    def listed(table: str) -> HTMLResponse:
        found = [
            {
                **probes.as_json(one), "shown": _headline(one.result), "images": has_calls(one),
                "called": NAMES.get(probes.headline(one.result), ""),
            }
            for one in probes.listed(tables.get(table).store)
        ]  # fmt: skip
        return page("probes.html", **shared(tables, table, "/probes"), found=found)

    @router.get("/t/{table}/probes/{name}")
    def report(table: str, name: str) -> HTMLResponse:
        store = tables.get(table).store
        return _report(report_html(probes.one(store, name).result, lambda key: _picture(store.name, key)))

    @router.get("/t/{table}/probes/{name}/images")
    def images(
        table: str, name: str, true: ClassName = None, called: ClassName = None, bin: Bin = None, offset: Offset = 0
    ) -> HTMLResponse:
        served = tables.get(table)
        listed = probes.one(served.store, name)
        found, own = predicted(served, listed, (true, called, bin), IMAGES, offset), listed.result
        chosen = {"true": true, "called": called, "bin": bin}
        between = "" if bin is None else f"{bin / ECE_BINS:.2f} to {(bin + 1) / ECE_BINS:.2f}"
        return page(
            "images.html", **shared(tables, table, "/probes"), found=found, name=name, labels=own.request.labels,
            metric=NAMES.get(probes.headline(own), ""), headline=_headline(own), matrix=_matrix(found),
            errors=_errors(found), chosen=chosen, between=between, offset=offset, limit=IMAGES, link=_link(chosen),
        )  # fmt: skip

    @router.get("/t/{table}/compare")
    def compared(table: str) -> HTMLResponse:
        found = probes.comparisons(tables.get(table).store)
        rows = [
            {
                **probes.comparison_as_json(one), "called": NAMES.get(one.found.metric, one.found.metric),
                "values": [
                    with_interval(scored.metrics.get(one.found.metric), shown_as(one.found.metric))
                    for scored in one.found.scored
                ],
                "deltas": [with_interval(d.delta, shown_as(one.found.metric)) for d in one.found.differences],
            }
            for one in found
        ]  # fmt: skip
        return page("compare.html", **shared(tables, table, "/compare"), found=rows)

    @router.get("/t/{table}/compare/{name}")
    def comparison(table: str, name: str) -> HTMLResponse:
        return _report(comparison_html(probes.one_comparison(tables.get(table).store, name)))


def _duplicates(router: APIRouter, tables: Tables) -> None:
    @router.get("/t/{table}/duplicates")
    def near(
        table: str, file: File = None, compute: bool = False, threshold: Cosine = NearOptions.threshold,
        group: Column = None, split: Column = None, across: Across = "any",
        cluster: Annotated[int | None, Query(ge=0)] = None, offset: Offset = 0,
    ) -> HTMLResponse:  # fmt: skip
        served = tables.get(table)
        files = [{"file": path.name, "facts": facts} for path, facts in pairs.files_of(served)]
        file = file or (files[0]["file"] if files and not compute else None)  # type: ignore[assignment]
        chosen = {
            "file": file, "compute": "true" if compute and not file else None, "threshold": threshold,
            "group": group or None, "split": split or None, "across": across, "cluster": cluster,
        }  # fmt: skip
        found, why = None, ""
        try:
            if file or compute:
                options = NearOptions(threshold, None, group or None, split or None)
                own = pairs.read_pairs(served, file) if file else pairs.computed_pairs(served, options)
                found = pairs.page_of(served, own, pairs.Shown(across, cluster, PAIRS, offset))
        except (InputError, Busy) as error:
            why = str(error)
        return page(
            "duplicates.html", **shared(tables, table, "/duplicates"), found=found, why=why, files=files, chosen=chosen,
            columns=shown_columns(served.searcher.snapshot.view), may_compute=pairs.may_compute(served),
            most=pairs.MOST_COMPUTED, offset=offset, limit=PAIRS, link=_link(chosen),
        )  # fmt: skip


def _link(chosen: dict[str, Any]) -> Any:
    """Makes the query string of the same page with other choices; None leaves one out."""

    def made(**changes: Any) -> str:
        return "?" + urlencode({k: v for k, v in {**chosen, **changes}.items() if v is not None})

    return made


def _picture(table: str, key: str) -> str:
    """Where this server draws the image of a key."""
    return f"/api/v1/tables/{quote(table, safe='')}/images/{quote(key, safe='')}/rendered?size={SIDE}"


def _report(text: str) -> HTMLResponse:
    return HTMLResponse(text, headers={"content-security-policy": REPORT_POLICY})


def _headline(result: ProbeResult) -> str:
    """The headline metric with its interval, or its spread over folds, as the report writes it."""
    name = probes.headline(result)
    return (plus_minus if result.folds else with_interval)(result.test.metrics.get(name), shown_as(name))


def _matrix(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the confusion matrix with the shade of each cell; none where it has too many classes to be drawn."""
    classes, counts = found["classes"], found["confusion"]
    if not counts or len(classes) > MOST_CELLS:
        return []

    def cell(called: str, rows: int, total: int) -> dict[str, Any]:
        return {"called": called, "rows": rows, "shade": round(SHADES * rows / max(total, 1))}

    return [
        {"true": name, "cells": [cell(called, n, sum(row)) for called, n in zip(classes, row, strict=True)]}
        for name, row in zip(classes, counts, strict=True)
    ]


def _errors(found: dict[str, Any]) -> list[tuple[str, str, int]]:
    """The most frequent errors (true, called, images) of many classes."""
    classes, counts = found["classes"], found["confusion"]
    if len(classes) <= MOST_CELLS:
        return []
    wrong = [(classes[i], classes[j], n) for i, row in enumerate(counts) for j, n in enumerate(row) if n and i != j]
    return sorted(wrong, key=lambda one: -one[2])[:MOST_ERRORS]
