"""`make demo-slides`: the command lines on slides of two classes; this module only prepares, counts and draws."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from indexer.demo.slides import ACROSS, DOWN, Slide, write_slides
from indexer.demo.slides_page import Shares, write_page
from indexer.demo.steps import fresh_folder, step
from indexer.options import SEED, run
from indexer.types import Hit
from probes.runs.result_files import read_result

WHAT = (
    "The data are ONE picture of a stained section (scikit-image's immunohistochemistry), cut into 32 pieces that are "
    "mirrored to fill a slide, with much or little of the brown dye left in by computation; the encoder was trained on "
    "ImageNet photographs. The classes differ to the eye. The numbers show that the machinery works, nothing clinical."
)
TISSUE = "0.4"  # so that tiles of the outline alone, which look alike in all slides, are few
NEAREST = 3  # slides that count in the share


@click.command("demo-slides", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", default="demo-slides-out", show_default=True, type=click.Path(path_type=Path))
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the dyes and outlines, and of the probe.")
def demo(out: Path, seed: int) -> None:
    """Slides to tiles, vectors, pooled slides, search by slide and a slide-level probe, in one folder."""
    start = time.monotonic()
    fresh_folder(out)
    click.secho(WHAT, fg="yellow")
    slides = write_slides(out / "slides", slides=ACROSS * DOWN, seed=seed)
    click.echo(f"{len(slides)} slides and slides.csv with their classes in {out / 'slides'}")

    db, probe = str(out / "db"), out / "probe-linear"
    step("indexer", "index", str(out / "slides"), db, "--tile", "256", "--mpp", "0.5", "--tissue", TISSUE)
    step("indexer", "pool", db, "--by", "slide")
    asked = ("--by", "slide", "-k", "5", "--columns", "brown")
    step("indexer", "search", db, "--group", slides[0].name, *asked)
    step(
        "probes", "linear", db, "--label", "brown", "--positive", "strong", "--group", "slide", "--level", "slide",
        "--seed", str(seed), "--out", str(probe),
    )  # fmt: skip
    hits = _search(db, slides)
    shares = _shares(slides, hits)
    click.echo(
        f"\nOf each slide's {NEAREST} nearest slides, share of its class: embedding {shares.embedding:.2f}, "
        f"mean colour {shares.colour:.2f}, chance {shares.chance:.2f}"
    )
    drawn = (probe.name, read_result(probe))
    page = write_page(out / "demo.html", what=WHAT, db=db, slides=slides, hits=hits, shares=shares, probe=drawn)
    click.secho(f"\nThe page: {page.resolve()}   ({time.monotonic() - start:.0f} s)", bold=True)
    click.secho(f"To look around and search in a browser: indexer serve {db}", bold=True)


def _search(db: str, slides: Sequence[Slide]) -> dict[str, list[Hit]]:
    """Slide → its hits. The printed command asks for one slide; here each is asked for, by the same door."""
    from indexer.search.answer import answer
    from indexer.search.options import SearchOptions
    from indexer.search.queries import Query
    from indexer.search.searcher import Searcher
    from indexer.store.table import EmbeddingStore

    searcher = Searcher(EmbeddingStore.open(db))
    options = SearchOptions(k=NEAREST, by="slide", columns=("brown",))
    return {s.name: answer(searcher, Query(groups=(s.name,)), options).queries[0].hits for s in slides}


def _shares(slides: Sequence[Slide], hits: dict[str, list[Hit]]) -> Shares:
    """How often a near slide is of the query's class: by hits, by the tissue's mean colour, and by luck."""
    brown = np.array([slide.brown for slide in slides])
    same = brown[:, None] == brown[None]
    np.fill_diagonal(same, False)
    colours = np.stack([slide.colour for slide in slides])
    gaps = np.linalg.norm(colours[:, None] - colours[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    near = np.argsort(gaps, axis=1, kind="stable")[:, :NEAREST]
    found = [hit.columns["brown"] == slide.brown for slide in slides for hit in hits[slide.name]]
    return Shares(
        slides=len(slides),
        nearest=NEAREST,
        embedding=float(np.mean(found)),
        colour=float(np.take_along_axis(same, near, 1).mean()),
        chance=float(same.sum() / (len(slides) * (len(slides) - 1))),
    )


if __name__ == "__main__":
    run(demo)
