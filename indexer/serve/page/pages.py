"""The pages: templates filled with records."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from indexer.errors import IndexFileError, RowNotFound, StoreError
from indexer.groups.pooling import MEAN
from indexer.serve.guard import COOKIE, token_is
from indexer.serve.http.answers import shown_columns
from indexer.serve.http.bodies import Offset
from indexer.serve.http.map import described, newest_map
from indexer.serve.http.records import failures, run_records
from indexer.serve.page.assets import page
from indexer.serve.page.shared import shared
from indexer.serve.settings import Settings
from indexer.serve.tables import Tables
from indexer.store.pooled import pooled_of
from indexer.upkeep.health import HealthReport, health

ROWS = 100  # of a page of failures
SESSION = 12 * 3600  # seconds that a browser keeps the token


def pages(tables: Tables, settings: Settings) -> APIRouter:
    """The routes of the pages."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    def first() -> Response:
        return RedirectResponse(f"/t/{quote(tables.names()[0])}")

    @router.get("/go")
    def go(table: str) -> Response:
        return RedirectResponse(f"/t/{quote(tables.get(table).store.name)}")

    @router.get("/t/{table}")
    def search(table: str) -> HTMLResponse:
        served = tables.get(table)
        spec, view = served.store.spec, served.searcher.snapshot.view
        columns = shown_columns(view)
        first = next((b.column("key")[0].as_py() for b in view.scan(["key"], batch_rows=1) if b.num_rows), "")
        return page(
            "search.html", **shared(tables, table, ""), columns=columns, example=first, encoder=spec.name,
            random=spec.random, text=served.has_text, upload=settings.upload_bytes,
            pooled=[by for by, method in pooled_of(served.store) if method == MEAN and by in columns],
        )  # fmt: skip

    if settings.token is not None:
        _login(router, settings)
    _records(router, tables)
    return router


def _records(router: APIRouter, tables: Tables) -> None:
    """The pages of what lies beside a table."""

    @router.get("/t/{table}/failures")
    def failed(table: str, offset: Offset = 0) -> HTMLResponse:
        found = failures(tables.get(table).searcher.snapshot.view, ROWS, offset)
        return page("failures.html", **shared(tables, table, "/failures"), found=found, offset=offset, limit=ROWS)

    @router.get("/t/{table}/map")
    def mapped(table: str) -> HTMLResponse:
        served, found, why = tables.get(table), None, ""
        try:
            found = described(newest_map(served), None)
        except (RowNotFound, IndexFileError, StoreError) as error:
            why = str(error)
        return page("map.html", **shared(tables, table, "/map"), found=found, why=why)

    @router.get("/t/{table}/runs")
    def runs(table: str) -> HTMLResponse:
        found = [_run_line(record) for record in run_records(tables.get(table).store)]
        return page("runs.html", **shared(tables, table, "/runs"), found=found)

    @router.get("/t/{table}/health")
    def not_checked(table: str) -> HTMLResponse:
        return page("health.html", **shared(tables, table, "/health"), report=None)

    @router.post("/t/{table}/health")
    def checked(table: str) -> HTMLResponse:
        report = health(tables.opened_again(table))
        return page("health.html", **shared(tables, table, "/health"), report=report, facts=_facts(report))


def _login(router: APIRouter, settings: Settings) -> None:
    @router.get("/login")
    def ask() -> HTMLResponse:
        return page("login.html", wrong=False)

    @router.post("/login")
    async def enter(request: Request) -> Response:
        from urllib.parse import parse_qs

        given = parse_qs((await request.body())[:4096].decode("utf-8", "replace")).get("token", [""])[0]
        if not token_is(settings, given):
            return await run_in_threadpool(page, "login.html", 401, wrong=True)
        answer = RedirectResponse("/", 303)
        secure = settings.certificate is not None or settings.behind_proxy
        answer.set_cookie(
            COOKIE, quote(given, safe=""), max_age=SESSION, httponly=True, samesite="strict", secure=secure
        )
        return answer


def _run_line(record: Mapping[str, Any]) -> dict[str, str]:
    """What the page shows of a run's record, in which anything may stand: "" for what is not of its type."""
    report = record.get("report")
    report = report if isinstance(report, dict) else {}
    seconds, images, failed = map(_number, (record.get("seconds"), report.get("images"), report.get("failed")))
    return {
        "begun": _begun(record["name"]),
        "status": record["status"] if isinstance(record.get("status"), str) else "",
        "seconds": "" if seconds is None else f"{seconds:,.1f}",
        "images": "" if images is None else f"{images:.0f}",
        "failed": "" if failed is None else f"{failed:.0f}",
        "rate": f"{images / seconds:.1f}" if images is not None and seconds else "",
    }


def _number(value: object) -> float | None:
    """A number of a size that a run can have."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < 1e15 else None


def _begun(name: str) -> str:
    """The time in a run's folder name, as people write it; another name as it is."""
    try:
        return datetime.strptime(name[:16], "%Y%m%dT%H%M%SZ").strftime("%Y-%m-%d %H:%M:%S UTC")
    except ValueError:
        return name


def _facts(report: HealthReport) -> list[tuple[str, str]]:
    """Name and value of what was counted."""
    facts = [
        ("Rows", f"{report.rows:,}"),
        ("Table version", str(report.version)),
        ("Encoder", report.encoder),
        ("Shards", f"{report.shards:,}, {report.shards_partial:,} stored in part"),
        ("Failures", f"{report.failures:,}"),
        ("Zero or not finite", f"{report.zero_or_not_finite:,}"),
        ("Same image bytes twice", f"{report.duplicate_content:,}"),
        ("Mean cosine of random pairs", "-" if report.mean_cosine is None else f"{report.mean_cosine:.4f}"),
        ("Fragments, versions kept", f"{report.fragments:,}, {report.versions:,}"),
    ]
    if report.index is not None:
        own = report.index
        facts.append(("Index", f"{own.kind} of {own.rows_in_index:,} rows, {own.rows_not_in_index:,} rows newer"))
        facts.append(("Recall@10, measured now", f"{own.recall_at_10:.3f}, {own.recall_target:g} asked for"))
    if report.sources is not None:
        own_sources = report.sources
        facts.append(("Images read back", f"{own_sources.checked:,}, {own_sources.unreadable:,} not readable"))
    return facts
