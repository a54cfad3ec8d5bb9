"""`make demo`: runs the command lines on real images; this module only prepares, counts and draws."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from indexer.demo.page import write_page
from indexer.demo.retrieval import CLOSE_MM, Share, chance, embedding_shares, raw_pixel_shares
from indexer.demo.review import WRONG_EVERY, review_parts, reviewed_probe
from indexer.demo.steps import fresh_folder, step
from indexer.demo.volume import PLANES, slices, write_archive, write_queries
from indexer.options import SEED, run
from probes.runs.result_files import read_result

WHAT = (
    "The data are ONE average brain (MNI152 T1, 1 mm), cut in three planes; the encoder was trained on ImageNet "
    "photographs; there are no disease labels. The numbers show that the machinery works, nothing clinical."
)
BANDS = 8  # anatomical levels along the axial axis
BLOCK = 2  # neighbouring slices of a plane that are one group of the reviewed probe
SLABS_PER_BAND = 5  # contiguous slabs, used as groups: neighbouring slices are on the same side of a split


@click.command("demo", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", default="demo-out", show_default=True, type=click.Path(path_type=Path))
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the queries' changes and the probes' splits.")
def demo(out: Path, seed: int) -> None:
    """Real images to vectors, an index, search results and a probe, in one folder."""
    start = time.monotonic()
    fresh_folder(out)
    click.secho(WHAT, fg="yellow")
    cuts = list(slices())
    kept = write_archive(cuts, out / "dicom")
    queries = write_queries(cuts, out / "queries", seed=seed)
    click.echo(f"{len(kept)} DICOM slices, 1 truncated file, 1 file that is not an image; {len(queries)} queries")

    db = str(out / "db")
    secret = ("--secret", str(out / "secret"), "--new-secret")
    step("indexer", "pack", str(out / "dicom"), str(out / "shards"), *secret)
    step("indexer", "index", str(out / "shards"), db)
    step("indexer", "failures", db)
    step("indexer", "build-ann", db)
    hits = _search(db, list(queries))
    shares = embedding_shares(hits, queries), raw_pixel_shares(cuts, queries), chance(cuts, queries)
    _print_shares(*shares)

    wrong = _write_labels(db, out / "labels.csv")
    step("indexer", "labels", db, str(out / "labels.csv"))
    step("indexer", "map", db)
    probes = {}
    for kind, more in (("linear", ["--few-shot"]), ("knn", [])):
        where = "image_orientation = 'axial'"
        folder = out / f"probe-{kind}"
        step(
            "probes", kind, db, "--label", "level", "--group", "slab", "--where", where, "--split", "stratified",
            "--seed", str(seed), *more, "--out", str(folder),
        )  # fmt: skip
        probes[folder.name] = read_result(folder)
    more = review_parts(reviewed_probe(db, out, seed=seed), wrong)
    page = write_page(
        out / "demo.html", what=WHAT, db=db, queries=queries, hits=hits, shares=shares, probes=probes, more=more
    )
    click.secho(f"\nThe page: {page.resolve()}   ({time.monotonic() - start:.0f} s)", bold=True)
    click.secho(f"To look around and search in a browser: indexer serve {db}", bold=True)


def _search(db: str, paths: Sequence[str], k: int = 5) -> dict[str, list[dict[str, Any]]]:
    """Query file → its hits. The printed command shows one query; all are searched by one command."""
    columns = "image_orientation,slice_location"
    step("indexer", "search", db, paths[len(paths) // 2], "-k", str(k), "--columns", columns)
    answer = json.loads(
        step("indexer", "search", db, *paths, "-k", str(k), "--columns", columns, "--json", capture=True)
    )
    return {query["query"]: query["hits"] for query in answer["queries"]}


def _print_shares(embedding: dict[str, Share], raw: dict[str, Share], luck: dict[str, float]) -> None:
    click.echo(f"\nNearest slice in the same plane and within {CLOSE_MM:g} mm, share of queries:")
    click.echo(f"{'plane':<10}{'queries':>8}{'embedding':>11}{'raw pixels':>12}{'chance':>8}")
    for plane in PLANES:
        e, r = embedding[plane], raw[plane]
        click.echo(f"{plane:<10}{e.queries:>8}{e.share:>11.2f}{r.share:>12.2f}{luck[plane]:>8.2f}")


def _write_labels(db: str, path: Path) -> set[str]:
    """Write labels by key: of axial slices eight bands as classes and contiguous slabs as groups; of all slices whether
    they are of their plane's central half, with blocks of neighbours as groups. Returns the keys of the slices whose
    half is wrong on purpose.
    """
    from indexer.store.table import EmbeddingStore

    wrong = set()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "level", "slab", "place_in_head", "block"])
        for plane in PLANES:
            batches = EmbeddingStore.open(db).scan(["key", "slice_location"], f"image_orientation = '{plane}'")
            rows = sorted((row["slice_location"], row["key"]) for batch in batches for row in batch.to_pylist())
            edges = np.linspace(0, BANDS * SLABS_PER_BAND, len(rows), endpoint=False).astype(int)
            for i, ((_, key), slab) in enumerate(zip(rows, edges, strict=True)):
                band = [f"band {slab // SLABS_PER_BAND + 1}", f"slab {slab:02d}"] if plane == "axial" else ["", ""]
                central = len(rows) / 4 <= i < 3 * len(rows) / 4
                if i % WRONG_EVERY == WRONG_EVERY // 2:
                    central = not central
                    wrong.add(key)
                writer.writerow([key, *band, "central" if central else "outer", f"{plane} {i // BLOCK:02d}"])
    return wrong


if __name__ == "__main__":
    run(demo)
