"""`indexer near-duplicates`: finds near-duplicate images, also across patients and splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from indexer.duplicates.options import GroupOptions, NearOptions
from indexer.errors import InputError
from indexer.options import FiniteRange, counted, emit, json_option, plain, say, table_option, where_option

if TYPE_CHECKING:
    from indexer.duplicates.find import NearReport

FIRST = 10  # pairs listed on stdout


@click.command("near-duplicates", short_help="Pairs and clusters of near-duplicate images, across groups and splits.")
@click.argument("database", metavar="DB")
@click.option(
    "--threshold",
    type=FiniteRange(0, 1, min_open=True),
    default=NearOptions.threshold,
    show_default=True,
    help="Lowest cosine of a pair.",
)
@click.option("--group", metavar="COLUMN", help="Rows that belong together, e.g. the patient: counts pairs across.")
@click.option("--split", metavar="COLUMN", help="Names training and test rows: counts rows that leak.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the listed pairs: .parquet or .csv."
)
@click.option(
    "--members",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write every image of a cluster, with the cluster's number: .parquet or .csv.",
)
@click.option(
    "--pairs-per-cluster",
    type=click.IntRange(min=0),
    help=f"A cluster of more pairs is listed by each image's nearest. Default: {NearOptions.pairs_per_cluster}.",
)
@click.option("--by", metavar="COLUMN", help="Pairs of groups (series, slides, studies) in place of images.")
@click.option(
    "--share",
    type=FiniteRange(0, 1, min_open=True),
    help=f"With --by: lowest share of near rows of a group. Default: {GroupOptions.share:g}.",
)
@click.option(
    "--candidates",
    type=FiniteRange(-1, 1),
    help="With --by: lowest cosine of pooled vectors; -1 compares all. Default: --threshold.",
)
@where_option
@table_option
@json_option
def command(
    *,
    database: str,
    threshold: float,
    group: str | None,
    split: str | None,
    out: Path | None,
    members: Path | None,
    pairs_per_cluster: int | None,
    by: str | None,
    share: float | None,
    candidates: float | None,
    where: str | None,
    table: str | None,
    as_json: bool,
) -> None:
    """Find every pair of images whose cosine reaches --threshold, exactly, and the clusters they form.

    Images of equal bytes or equal vectors are copies: each pair of them is a pair of score 1. A pair across patients
    may be one patient under two names; a pair across splits is a test image seen in training.

    All pairs are counted. Listed are all pairs of a cluster of up to --pairs-per-cluster pairs; a larger cluster, such
    as a thousand blank images, is listed by its images: each with its nearest near-duplicate, copies with the first of
    them. The column cluster_pairs gives the cluster's number of pairs. Prints the counts and the first pairs; --out
    writes all that are listed, --members the images of each cluster. Works in the temporary folder (TMPDIR), which
    needs room for a copy of the vectors.

    With --by COLUMN (after `indexer pool DB --by COLUMN`): the same study twice, the same slide scanned twice. Two
    groups are candidates where their pooled mean vectors have a cosine of at least --candidates (-1: all pairs); of
    these all rows are compared, exactly. share_a is the share of group a's rows that have a row of group b at or above
    --threshold, share_b the other way round. Pairs in which the larger share reaches --share are counted, and listed
    by --out, nearest first.
    """
    from indexer.duplicates.files import pairs_file, require_pairs_file
    from indexer.duplicates.find import stream_near_duplicates
    from indexer.progress.terminal import Terminal
    from indexer.store.table import EmbeddingStore

    grouped = _group_options(by, threshold, share, candidates)
    if grouped:
        _require_none({
            "--group": group, "--split": split, "--members": members, "--where": where,
            "--pairs-per-cluster": pairs_per_cluster,
        })  # fmt: skip
        _groups(database, table, grouped, out, as_json=as_json)
        return
    most = NearOptions.pairs_per_cluster if pairs_per_cluster is None else pairs_per_cluster
    options = NearOptions(threshold, where, group, split, most)
    for option, path in (("--out", out), ("--members", members)):
        if path:
            require_pairs_file(path, option)
    store = EmbeddingStore.open(database, table)
    first: list[dict[str, Any]] = []
    with (
        pairs_file(out) if out else nullcontext() as write,
        pairs_file(members) if members else nullcontext() as write_members,
    ):
        take = _taking(first, write)
        report = stream_near_duplicates(store, options, take, members=write_members, progress=Terminal())
    _say_notes(report, options, out, members)
    emit({**vars(report), "first_pairs": first}, as_json=as_json, text=_text)


def _say_notes(report: NearReport, options: NearOptions, out: Path | None, members: Path | None) -> None:
    if not report.rows:
        lacking = "is there" if options.where is None else "fulfils --where"
        say(f"note: no row of table {report.table} {lacking}: nothing was compared", err=True)
    if out:
        say(f"wrote {report.listed_pairs} pairs to {out}", err=True)
    if members:
        say(f"wrote {report.rows_in_clusters} images to {members}", err=True)
    if report.clusters_listed_in_part:
        clusters = counted(report.clusters_listed_in_part, "cluster")
        say(
            f"{clusters} of more than {options.pairs_per_cluster:,} pairs, the largest of "
            f"{report.largest_cluster_pairs:,}: listed by each image's nearest. --members lists the images.",
            err=True,
        )


def _group_options(
    by: str | None, threshold: float, share: float | None, candidates: float | None
) -> GroupOptions | None:
    if by is not None:
        return GroupOptions(by, threshold, GroupOptions.share if share is None else share, candidates)
    if share is not None or candidates is not None:
        raise InputError("--share and --candidates are of groups. Name a column with --by.")
    return None


def _require_none(of_images: Mapping[str, object]) -> None:
    for option, value in of_images.items():
        if value is not None:
            raise InputError(f"{option} is of images, and --by of groups. Leave one of them out.")


def _groups(database: str, table: str | None, options: GroupOptions, out: Path | None, *, as_json: bool) -> None:
    from indexer.duplicates.files import pairs_file, require_pairs_file
    from indexer.duplicates.group_pairs import stream_near_groups
    from indexer.progress.terminal import Terminal
    from indexer.store.table import EmbeddingStore

    if out:
        require_pairs_file(out, "--out")
    store = EmbeddingStore.open(database, table)
    first: list[dict[str, Any]] = []
    with pairs_file(out) if out else nullcontext() as write:
        report = stream_near_groups(store, options, _taking(first, write), progress=Terminal())
    if out:
        say(f"wrote {report.listed_pairs} pairs to {out}", err=True)
    if report.listed_pairs < report.pairs:
        say(f"{report.pairs:,} pairs, of which the nearest {report.listed_pairs:,} are listed.", err=True)
    emit({**vars(report), "first_pairs": first}, as_json=as_json, text=_text)


def _taking(first: list[dict[str, Any]], write: Callable[[Any], None] | None) -> Callable[[Any], None]:
    """Takes blocks of pairs: the FIRST pairs go to `first`, all to the file that `write` writes."""

    def take(block: Any) -> None:
        first.extend(block.slice(0, FIRST - len(first)).to_pylist())
        if write:
            write(block)

    return take


def _text(facts: dict[str, Any]) -> str:
    counts = {name: value for name, value in facts.items() if name != "first_pairs"}
    shown = facts["first_pairs"]
    return plain(counts) + (f"\n\nfirst {len(shown)} pairs\n{plain(shown)}" if shown else "")
