"""`indexer build-ann`: build or refresh the FAISS index of a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from indexer.ann.goal import Goal, GoalChange
from indexer.options import SEED, FiniteRange, emit, json_option, table_option

if TYPE_CHECKING:
    from rich.console import Console

    from indexer.ann.choose import Candidate
    from indexer.ann.manifest import Manifest
    from indexer.ann.sampling import GivenQueries
    from indexer.search.index_build import BuildReport


FEWEST_QUERIES = 20


@click.command("build-ann", short_help="Build or refresh the FAISS index of a table.")
@click.argument("database", metavar="DB")
@table_option
@click.option(
    "--recall",
    type=FiniteRange(0.5, 1),
    help=f"Share of the true 10 nearest. Default: {Goal.recall}; with --refresh, what it was built for.",
)
@click.option(
    "--latency-ms",
    type=FiniteRange(min=0.01),
    help=f"Time of one query alone. Default: {Goal.latency_ms}; with --refresh, what it was built for.",
)
@click.option(
    "--memory",
    "memory_gib",
    default=Goal.memory_bytes / 2**30,
    show_default=True,
    type=FiniteRange(0, min_open=True),
    help="GiB to build in and to search with.",
)
@click.option(
    "--kind",
    metavar="KIND",
    help="Build this kind: exact, ivf-fp16, ivf-sq8, ivf-rabitq, ivf-rabitqlib (extra rabitq), hnsw-fp16. "
    "Default: measured; --refresh: as before.",
)
@click.option("--refresh", is_flag=True, help="Bring the index up to date instead of rebuilding it.")
@click.option(
    "--queries",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Tune and measure on these vectors (.npy of `embed`, .parquet of `export`). Default: held-out rows.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the samples and of k-means.")
@json_option
def command(
    *,
    database: str,
    table: str | None,
    recall: float | None,
    latency_ms: float | None,
    memory_gib: float,
    kind: str | None,
    refresh: bool,
    queries: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Build the cheapest index that reaches --recall within --latency-ms, measured on this table's own vectors.

    Candidates are built on a sample and tuned on held-out queries; their measurements are printed to stderr, the
    result to stdout. A table small enough to be scanned within the latency stays exact. Searches always add rows newer
    than the index and skip deleted ones; --refresh updates the index itself, for the recall, latency and kind it was
    built for. With a different one of these, --refresh rebuilds it.

    Queries unlike the stored images (another scanner, cropped, drawn) may find fewer of their nearest than held-out
    rows do: embed some of them and give them by --queries. `indexer search` and `health` say what was measured on.
    """
    from rich.console import Console
    from rich.text import Text

    from indexer.ann.engines.kinds import ENGINES
    from indexer.errors import InputError
    from indexer.jsonable import printable
    from indexer.progress.terminal import Terminal
    from indexer.search.index_build import build_index, refresh_index
    from indexer.store.table import EmbeddingStore

    if kind is not None and kind not in ENGINES:
        raise click.BadParameter(f"{kind!r} is not one of {', '.join(ENGINES)}.", param_hint="--kind")
    if kind is not None and ENGINES[kind].missing:
        raise InputError(f"--kind {kind} needs an extra: {ENGINES[kind].missing}, or leave --kind out.")
    console = Console(stderr=True)
    store = EmbeddingStore.open(database, table)
    change, memory_bytes = GoalChange(recall, latency_ms, kind), int(memory_gib * 2**30)
    given = None if queries is None else _given(queries, store.dim)
    progress = Terminal()
    if refresh:
        report = refresh_index(store, change, memory_bytes=memory_bytes, seed=seed, given=given, progress=progress)
    else:
        goal, _ = change.of(Goal(memory_bytes=memory_bytes))
        report = build_index(store, goal, seed=seed, given=given, progress=progress)
    _print_candidates(report, console)
    summary = _summary(report)
    for warning in summary["warnings"]:
        console.print(Text(printable(f"warning: {warning}"), style="yellow"))
    if not as_json:
        del summary["candidates"]  # the table above shows them
    emit(summary, as_json=as_json)


def _given(path: Path, dim: int) -> GivenQueries:
    from indexer.ann.sampling import GivenQueries
    from indexer.errors import InputError
    from indexer.search.queries import load_vectors

    vectors = load_vectors(path, dim, "--queries")
    if len(vectors) < FEWEST_QUERIES:
        raise InputError(
            f"--queries {path} holds {len(vectors)}: one half chooses settings and the other measures recall, which "
            f"takes {FEWEST_QUERIES} or more. Embed more images."
        )
    return GivenQueries(str(path), vectors)


def _print_candidates(report: BuildReport, console: Console) -> None:
    from rich.text import Text

    from indexer.jsonable import printable

    if len(report.candidates) > 1:
        console.print(_candidates_table(report.candidates, report.sample_rows))
        for candidate in report.candidates:
            console.print(Text(printable(f"  {candidate.kind}: {candidate.reason}")))


def _candidates_table(candidates: tuple[Candidate, ...], sample_rows: int) -> Any:
    from rich.table import Table

    table = Table(title=f"measured on {sample_rows} rows, predicted for all", box=None)
    for name in ("index", "recall@10", "nprobe", "re-rank", "ms/query", "queries/s", "MiB", "build s"):
        table.add_column(name, justify="left" if name == "index" else "right", no_wrap=True)
    for c in candidates:
        cells = (
            c.kind, f"{c.recall_at_10:.3f}", str(c.settings.nprobe), str(c.settings.rerank), f"{c.p50_ms:.3g}",
            f"{c.queries_per_second:.0f}", f"{c.nbytes / 2**20:.1f}", f"{c.build_seconds:.2g}",
        )  # fmt: skip
        table.add_row(*cells, style="bold" if c.chosen else "")
    return table


def _summary(report: BuildReport) -> dict[str, Any]:
    manifest = report.manifest
    return {
        "table": report.table,
        "action": report.action,
        "why": report.why,
        "kind": manifest.kind,
        "factory": manifest.factory,
        "rows": manifest.rows,
        "version": manifest.version,
        "recall_at_10": manifest.measured.recall_at_10,
        "queries": manifest.queries or "held-out rows",
        "recall_target": manifest.recall_target,
        "latency_ms": manifest.latency_ms,
        "kind_asked": manifest.kind_asked,
        "p50_ms": manifest.measured.p50_ms,
        "queries_per_second": manifest.measured.queries_per_second,
        "nprobe": manifest.settings.nprobe,
        "rerank": manifest.settings.rerank,
        "index_bytes": manifest.files["index"].nbytes,
        "vector_bytes": manifest.files["vectors"].nbytes,
        "inserted": report.inserted,
        "updated": report.updated,
        "deleted": report.deleted,
        "stale": manifest.stale,
        "seconds": round(report.seconds, 3),
        "predicted_seconds": None if report.predicted_seconds is None else round(report.predicted_seconds, 3),
        "warnings": _warnings(manifest),
        "candidates": [vars(c) for c in report.candidates],
    }


def _warnings(manifest: Manifest) -> list[str]:
    got, out = manifest.measured, []
    if got.recall_at_10 < manifest.recall_target:
        out.append(f"recall@10 is {got.recall_at_10:.3f} on all rows, {manifest.recall_target:g} was asked for.")
    if got.p50_ms > manifest.latency_ms:
        out.append(f"a query takes {got.p50_ms:.3g} ms on all rows, {manifest.latency_ms:g} was asked for.")
    return out
