"""`indexer search`: finds the images most similar to a query."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from indexer.options import (
    FiniteRange,
    device_option,
    download_option,
    emit,
    json_option,
    patient_pattern_option,
    pictures_option,
    plain,
    say,
    table_option,
    where_option,
)
from indexer.search.options import MOST, SearchOptions

if TYPE_CHECKING:
    from indexer.search.batch import BatchReport
    from indexer.search.queries import Query
    from indexer.search.results import SearchResult
    from indexer.search.searcher import Searcher
    from indexer.store.table import EmbeddingStore
    from indexer.types import EncoderSpec
    from indexer.upkeep.pseudonyms import Pseudonyms


@click.command("search", short_help="Find the images most like a query image, key, text or vector.")
@click.argument("database", metavar="DB")
@click.argument("images", nargs=-1, metavar="[IMAGE]...", type=click.Path(path_type=Path))
@click.option("--key", "keys", multiple=True, help="A stored image's key; its own row is not a hit. Repeatable.")
@click.option("--text", "texts", multiple=True, help="A text, for encoders with a text tower. Repeatable.")
@click.option("--vectors", type=click.Path(path_type=Path), metavar="FILE", help="Query vectors: .npy or .parquet.")
@click.option("--shards", multiple=True, metavar="SHARDS", help="Every image of these is a query; needs --out.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.parquet", help="Where --shards writes its hits.")
@click.option(
    "-k", "--k", default=SearchOptions.k, show_default=True, type=click.IntRange(1, MOST), help="Hits for each query."
)
@where_option
@click.option("--exclude-same", metavar="COLUMN", help="Leave out rows with the query's own value, e.g. its patient.")
@click.option(
    "--secret",
    type=click.Path(path_type=Path),
    help="File with the key of pack's hashes: new DICOM files of known patients then work with --exclude-same.",
)
@click.option("--site", "sites", multiple=True, metavar="NAME", help="Issuer of their patient ids, if `pack` had one.")
@patient_pattern_option("The part of their patient ids that counts, if `pack` had one.")
@click.option("--one-per", metavar="COLUMN", help="One hit for each value, its best; a row without a value is a hit.")
@click.option("--by", metavar="COLUMN", help="One hit for each value (series, slide, study), after `indexer pool`.")
@click.option("--group", "groups", multiple=True, metavar="VALUE", help="With --by: a stored value as the query.")
@click.option("--min-score", type=FiniteRange(-1, 1), help="Lowest cosine.")
@click.option(
    "--offset",
    default=SearchOptions.offset,
    show_default=True,
    type=click.IntRange(0, MOST),
    help="Hits to skip (paging).",
)
@click.option(
    "--columns", metavar="A,B", help="Columns to show. Default: all that a terminal has room for; none in piped text."
)
@click.option("--exact", is_flag=True, help="Scan every row; do not use the index.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Also write a page with the pictures.")
@click.option("--png", type=click.Path(path_type=Path), metavar="FILE", help="Also write a contact sheet.")
@pictures_option
@click.option("--weights", metavar="FILE", help="The encoder's weights file, where it was indexed with one.")
@download_option
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
    secret: Path | None,
    sites: tuple[str, ...],
    patient_pattern: str,
    one_per: str | None,
    by: str | None,
    groups: tuple[str, ...],
    min_score: float | None,
    offset: int,
    columns: str | None,
    exact: bool,
    html: Path | None,
    png: Path | None,
    pictures_from: tuple[str, ...],
    weights: str | None,
    download: bool,
    device: str,
    table: str | None,
    as_json: bool,
) -> None:
    """Find the stored images nearest to each query by cosine, in the table's newest version.

    The query is one or more image files, --key, --text, --vectors or --shards. Filters apply before the search, so
    that k hits are returned where k rows match. With --one-per, k values are returned where k exist, each with its
    best row and, as `more`, the number of its other rows that the options allow. Without an index every row is
    scanned. Piped, it prints tab-separated rows.

    With --by, all that is named (files, all parts of them, folders, keys, groups) is one query, and a hit is a group:
    the groups of the nearest mean vectors are ranked by the mean, over the query's parts, of the best cosine to one of
    their rows. --exact ranks all groups so.
    """
    if sum(map(bool, (images, keys, texts, vectors, shards, groups))) != 1:
        raise click.UsageError("name one kind of query: image files, --key, --text, --vectors, --group or --shards.")
    if by and (shards or one_per):
        raise click.UsageError("--by gives one hit for each value of one query: leave --one-per and --shards out.")
    if groups and not by:
        raise click.UsageError("--group names a value of the column --by: give that too.")
    if bool(shards) != bool(out) or (shards and (html or png)):
        raise click.UsageError("--shards and --out go together, and draw no pictures.")
    if (secret or sites or patient_pattern) and not (images and exclude_same):
        raise click.UsageError(
            "--secret, --site and --patient-pattern tell the patient of image files: give them with --exclude-same."
        )
    from indexer.store.pandas_free import forgo_pandas

    forgo_pandas()
    # One image is embedded on all cores, whose threads else spin between its many short steps: on a machine that does
    # other work too, they take the time of the threads that they wait for
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from indexer.output_file import require_writable
    from indexer.search.answer import answer
    from indexer.search.searcher import Searcher
    from indexer.store.table import EmbeddingStore

    for option, path in (("--html", html), ("--png", png)):
        if path:
            require_writable(path, option)

    store = EmbeddingStore.open(database, table)
    names = _columns(columns, store, shown=as_json or sys.stdout.isatty())
    # What a page shows must not depend on where the text goes
    drawn = names if columns is not None or not (html or png) else tuple(store.columns())
    options = SearchOptions(k, where, exclude_same, one_per, min_score, offset, drawn, by)
    load = _load_light if images and weights is None else _load_encoder
    searcher = Searcher(store, exact=exact, load_encoder=lambda spec: load(spec, weights, device, download=download))
    if out:
        emit(_batch(searcher, shards, options, out), as_json=as_json)
        return
    query = _query(images, keys, texts, vectors, searcher.dim, groups=groups, folders=by is not None)
    if secret is not None and exclude_same is not None:
        from indexer.upkeep.pseudonyms import Pseudonyms

        pseudonyms = Pseudonyms.load(secret, sites, patient_pattern, database=store.uri)
        query = _with_values(query, store, exclude_same, pseudonyms)
    result = answer(searcher, query, options, pictures=bool(html or png), roots=pictures_from)
    _draw(result, html, png)
    _print(result, names, chosen=columns is not None, as_json=as_json)


def _print(result: SearchResult, names: Sequence[str], *, chosen: bool, as_json: bool) -> None:
    """As JSON, as tables for people, or as tab-separated rows for programs."""
    if as_json:
        emit(result.as_json(), as_json=True)
    elif sys.stdout.isatty():
        from indexer.search.drawing.terminal import print_tables

        print_tables(result, fit=not chosen)
    else:
        # Also without hits, for programs that read the header
        heads = "\t".join(result.heads(names))
        emit(result.rows(names), as_json=False, text=lambda rows: plain(rows) if rows else heads)
        _report_empty(result)


def _load_encoder(spec: EncoderSpec, weights: str | None, device: str, *, download: bool) -> Any:
    from indexer.encoders import load_spec

    return load_spec(spec, weights=weights, device=device, download=download)


def _load_light(spec: EncoderSpec, weights: str | None, device: str, *, download: bool) -> Any:
    """For images alone: the bundled encoder without the import of torch."""
    from indexer.encoders.light.encoder import light_encoder

    return light_encoder(spec, device) or _load_encoder(spec, weights, device, download=download)


def _columns(named: str | None, store: Any, *, shown: bool) -> tuple[str, ...]:
    if named is not None:
        return tuple(name.strip() for name in named.split(",") if name.strip())
    return tuple(store.columns()) if shown else ()


def _query(
    images: Sequence[Path],
    keys: tuple[str, ...],
    texts: tuple[str, ...],
    vectors: Path | None,
    dim: int,
    *,
    groups: tuple[str, ...],
    folders: bool,
) -> Query:
    from indexer.search.images import read_image
    from indexer.search.queries import Query, load_vectors

    if vectors is not None:
        rows = load_vectors(vectors, dim)
        return Query(vectors=rows, names=tuple(f"{vectors}[{i}]" for i in range(len(rows))))
    if folders:
        from indexer.search.by_group.files import read_images

        return Query(keys=keys, texts=texts, images=tuple(read_images(images)), groups=groups)
    return Query(keys=keys, texts=texts, images=tuple(read_image(path) for path in images), groups=groups)


def _with_values(query: Query, store: EmbeddingStore, column: str, pseudonyms: Pseudonyms) -> Query:
    """The query with the value of `column` of each image, hashed from its DICOM header as `pack` does."""
    from indexer.upkeep.pseudonyms import known_value, value_of_content

    own = []
    for image in query.images:
        stored = value_of_content(store, column, image.content)
        forms = (stored,) if stored else pseudonyms.of_image(image.name, image.data, column)
        value, known = known_value(store, column, forms)
        own.append(value)
        if not known:
            under = f"under the secret {pseudonyms.secret}"
            say(f"note: no row has the {column} of {image.name} {under}: nothing is left out for it", err=True)
    return replace(query, own=tuple(own))


def _batch(searcher: Searcher, sources: Sequence[str], options: SearchOptions, out: Path) -> BatchReport:
    from indexer.archive.shards import find_shards
    from indexer.progress.terminal import Terminal
    from indexer.search.batch import search_shards

    found = find_shards(sources)
    for note in found.notes:
        say(note, err=True)
    return search_shards(searcher, found.shards, options, out, progress=Terminal())


def _draw(result: SearchResult, html: Path | None, png: Path | None) -> None:
    if not (html or png):
        return
    from indexer.output_file import written_whole
    from indexer.search.drawing.pages import html_page
    from indexer.search.drawing.sheet import contact_sheet

    if html:
        page = html_page(result)
        with written_whole(html) as partial:
            partial.write_text(page, encoding="utf-8")
        say(f"wrote {html}", err=True)
    if png:
        sheet = contact_sheet(result)
        with written_whole(png) as partial:
            sheet.save(partial, "PNG")
        say(f"wrote {png}", err=True)


def _report_empty(result: SearchResult) -> None:
    """Reports queries without hits on stderr, since they print no row on stdout."""
    empty = [answer.query for answer in result.queries if not answer.hits]
    if not empty:
        return
    under = ", ".join(result.limits())
    whose = "" if len(empty) == len(result.queries) else f" for {len(empty)} of the queries, the first {empty[0]}"
    say(f"no hits{whose}: no row matches {under}" if under else f"no hits{whose}", err=True)
