"""`indexer near-duplicates`: finds near-duplicate images, also across patients and splits."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from indexer.duplicates.options import NearOptions
from indexer.options import counted, emit, json_option, plain, say, table_option, where_option

FIRST = 10  # pairs listed on stdout


@click.command("near-duplicates", short_help="Pairs and clusters of near-duplicate images, across groups and splits.")
@click.argument("database", metavar="DB")
@click.option("--threshold", default=NearOptions.threshold, show_default=True, help="Lowest cosine of a pair.")
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
    default=NearOptions.pairs_per_cluster,
    show_default=True,
    type=click.IntRange(min=0),
    help="A cluster of more pairs is listed by each image's nearest.",
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
    pairs_per_cluster: int,
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
    """
    from indexer.duplicates.files import pairs_file, require_pairs_file
    from indexer.duplicates.find import stream_near_duplicates
    from indexer.progress.terminal import Terminal
    from indexer.store.table import EmbeddingStore

    options = NearOptions(threshold, where, group, split, pairs_per_cluster)
    for option, path in (("--out", out), ("--members", members)):
        if path:
            require_pairs_file(path, option)
    store = EmbeddingStore.open(database, table)
    first: list[dict[str, Any]] = []
    with (
        pairs_file(out) if out else nullcontext() as write,
        pairs_file(members) if members else nullcontext() as write_members,
    ):

        def take(block: Any) -> None:
            first.extend(block.slice(0, FIRST - len(first)).to_pylist())
            if write:
                write(block)

        report = stream_near_duplicates(store, options, take, members=write_members, progress=Terminal())
    if out:
        say(f"wrote {report.listed_pairs} pairs to {out}", err=True)
    if members:
        say(f"wrote {report.rows_in_clusters} images to {members}", err=True)
    if report.clusters_listed_in_part:
        clusters = counted(report.clusters_listed_in_part, "cluster")
        most = f"{report.largest_cluster_pairs:,}"
        say(
            f"{clusters} of more than {pairs_per_cluster:,} pairs, the largest of {most}: listed by each image's "
            "nearest. --members lists the images.",
            err=True,
        )
    emit({**vars(report), "first_pairs": first}, as_json=as_json, text=_text)


def _text(facts: dict[str, Any]) -> str:
    counts = {name: value for name, value in facts.items() if name != "first_pairs"}
    shown = facts["first_pairs"]
    return plain(counts) + (f"\n\nfirst {len(shown)} pairs\n{plain(shown)}" if shown else "")
