"""`indexer search`: the images most like a query."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from indexer.options import device_option, emit, json_option, plain, table_option, where_option

if TYPE_CHECKING:
    from indexer.search.batch import BatchReport
    from indexer.search.results import SearchResult
    from indexer.search.searcher import Searcher, SearchOptions
    from indexer.types import EncoderSpec


@click.command("search", short_help="Find the images most like a query image, key, text or vector.")
@click.argument("database", metavar="DB")
@click.argument("images", nargs=-1, metavar="[IMAGE]...", type=click.Path(path_type=Path))
@click.option("--key", "keys", multiple=True, help="A stored image's key; its own row is not a hit. Repeatable.")
@click.option("--text", "texts", multiple=True, help="Words, where the encoder has a text tower. Repeatable.")
@click.option("--vectors", type=click.Path(path_type=Path), metavar="FILE.npy", help="Query vectors, one a row.")
@click.option("--shards", multiple=True, metavar="SHARDS", help="Every image of these is a query; needs --out.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.parquet", help="Where --shards writes its hits.")
@click.option("-k", "--k", default=10, show_default=True, type=click.IntRange(1), help="Hits for each query.")
@where_option
@click.option("--exclude-same", metavar="COLUMN", help="Leave out rows with the query's own value, e.g. its patient.")
@click.option("--min-score", type=click.FloatRange(-1, 1), help="Lowest cosine.")
@click.option("--offset", default=0, show_default=True, type=click.IntRange(0), help="Hits to skip (paging).")
@click.option(
    "--columns", metavar="A,B", help="Columns to show. Default: all on a terminal and with --json, else none."
)
@click.option("--exact", is_flag=True, help="Scan every row; do not use the index.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Also write a page with the pictures.")
@click.option("--png", type=click.Path(path_type=Path), metavar="FILE", help="Also write a contact sheet.")
@click.option("--weights", metavar="FILE", help="The encoder's weights file, where it was indexed with one.")
@device_option
@table_option
@json_option
def command(
    *,
    database: str,
    images: tuple[Path, ...],
    keys: tuple[str, ...],
    texts: tuple[str, ...],
    vectors: Path | None,
    shards: tuple[str, ...],
    out: Path | None,
    k: int,
    where: str | None,
    exclude_same: str | None,
    min_score: float | None,
    offset: int,
    columns: str | None,
    exact: bool,
    html: Path | None,
    png: Path | None,
    weights: str | None,
    device: str,
    table: str | None,
    as_json: bool,
) -> None:
    """Find the stored images nearest to each query by cosine, in the table's newest version.

    The query is one or more image files, --key, --text, --vectors or --shards. A filter holds before the search, so
    k rows come back wherever k rows match. Without an index every row is scanned. Piped, it prints tab-separated rows.
    """
    if sum(map(bool, (images, keys, texts, vectors, shards))) != 1:
        raise click.UsageError("name one kind of query: image files, --key, --text, --vectors or --shards.")
    if bool(shards) != bool(out) or (shards and (html or png)):
        raise click.UsageError("--shards and --out go together, and draw no pictures.")
    from indexer.search.searcher import Searcher, SearchOptions
    from indexer.store.table import EmbeddingStore

    store = EmbeddingStore.open(database, table)
    names = _columns(columns, store, as_json=as_json)
    options = SearchOptions(k, where, exclude_same, min_score, offset, names)
    searcher = Searcher(store, exact=exact, load_encoder=lambda spec: _load_encoder(spec, weights, device))
    if out:
        emit(_batch(searcher, shards, options, out), as_json=as_json)
        return
    result = _run(searcher, options, images, keys, texts, vectors)
    if html or png:
        _draw(store, result, html, png)
    if as_json:
        emit(result, as_json=True)
    elif sys.stdout.isatty():
        _print_tables(result)
    else:
        heads = "\t".join(("query", "rank", "score", "key", *names))  # also above no hits: a reader needs it
        emit(result.rows(), as_json=False, text=lambda rows: plain(rows) if rows else heads)
        _tell_empty(result, options)


def _load_encoder(spec: EncoderSpec, weights: str | None, device: str) -> Any:
    from indexer.encoders import load_spec

    return load_spec(spec, weights=weights, device=device)


def _columns(named: str | None, store: Any, *, as_json: bool) -> tuple[str, ...]:
    if named is not None:
        return tuple(name.strip() for name in named.split(",") if name.strip())
    return tuple(store.columns()) if as_json or sys.stdout.isatty() else ()


def _run(
    searcher: Searcher,
    options: SearchOptions,
    images: Sequence[Path],
    keys: Sequence[str],
    texts: Sequence[str],
    vectors: Path | None,
) -> SearchResult:
    from indexer.search.queries import load_vectors, read_image
    from indexer.search.results import result_of

    if keys:
        hits = searcher.by_key(keys, options)
        return result_of(searcher, "key", keys, hits)
    if texts:
        return result_of(searcher, "text", texts, searcher.by_text(texts, options))
    if vectors is not None:
        queries = load_vectors(vectors, searcher.dim)
        names = [f"{vectors}[{i}]" for i in range(len(queries))]
        return result_of(searcher, "vector", names, searcher.by_vector(queries, options))
    read = [read_image(path) for path in images]
    return result_of(searcher, "image", [image.name for image in read], searcher.by_image(read, options))


def _batch(searcher: Searcher, sources: Sequence[str], options: SearchOptions, out: Path) -> BatchReport:
    from rich.console import Console
    from rich.progress import Progress

    from indexer.archive.shards import find_shards
    from indexer.search.batch import search_shards

    found = find_shards(sources)
    for note in found.notes:
        click.echo(note, err=True)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("images searched", total=None)
        return search_shards(
            searcher, found.shards, options, out, progress=lambda n: progress.update(task, completed=n)
        )


def _draw(store: Any, result: SearchResult, html: Path | None, png: Path | None) -> None:
    from indexer.search.pages import contact_sheet, html_page, pictures_of

    drawn = pictures_of(store, result)
    if html:
        html.write_text(html_page(result, drawn), encoding="utf-8")
        click.echo(f"wrote {html}", err=True)
    if png:
        contact_sheet(result, drawn).save(png)
        click.echo(f"wrote {png}", err=True)


def _tell_empty(result: SearchResult, options: SearchOptions) -> None:
    """On stderr: rows on stdout say nothing of a query without hits."""
    empty = [answer.query for answer in result.queries if not answer.hits]
    if not empty:
        return
    asked = {
        f"--where {options.where!r}": options.where is not None,
        f"--exclude-same {options.exclude_same}": options.exclude_same is not None,
        f"--min-score {options.min_score}": options.min_score is not None,
        f"--offset {options.offset}": options.offset > 0,
    }
    under = ", ".join(words for words, given in asked.items() if given)
    whose = "" if len(empty) == len(result.queries) else f" for {len(empty)} of the queries, the first {empty[0]}"
    click.echo(f"no hits{whose}: no row matches {under}" if under else f"no hits{whose}", err=True)


def _print_tables(result: SearchResult) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for answer in result.queries:
        if not answer.hits:
            console.print(Text(f"{answer.query}: no hits"))
            continue
        names = list(answer.hits[0].columns)
        table = Table(title=Text(answer.query), title_justify="left", box=None)
        for name in ("rank", "cosine"):
            table.add_column(name, justify="right")
        for name in ("key", *names):
            table.add_column(name, overflow="fold")
        for hit in answer.hits:
            values = ["-" if hit.columns[n] is None else str(hit.columns[n]) for n in names]
            table.add_row(str(hit.rank), f"{hit.score:.4f}", Text(hit.key), *map(Text, values))
        console.print(table)
    console.print(Text(result.how, style="dim"))
