"""The demo of whole slides in small: its commands end in one page whose numbers numpy finds on the exported vectors."""

from __future__ import annotations

import csv
import re

import numpy as np
import openslide
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from indexer.demo import slide_search, slides
from probes.runs.result_files import read_result
from tests.commands import call

WIDTH, HEIGHT = 512, 256  # pixels of a slide here: two tiles


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder of a run with small slides, and what it printed."""
    out = tmp_path_factory.mktemp("demo") / "out"

    def step(program, *arguments):
        done = call(program, *arguments)
        assert done.code == 0, done.err

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slides, "WIDTH", WIDTH)
        patch.setattr(slides, "HEIGHT", HEIGHT)
        patch.setattr(slide_search, "TISSUE", "0")
        patch.setattr(slide_search, "step", step)
        done = CliRunner().invoke(slide_search.demo, ["--out", str(out)], catch_exceptions=False)
    return out, done.output


@pytest.fixture(scope="module")
def tiles(demo):
    """Slide → the unit vectors of its tiles, as exported; and slide → class, of the labels' file."""
    out, _ = demo
    assert call("indexer", "export", out / "db", out / "all.parquet").code == 0
    rows = pq.read_table(out / "all.parquet").to_pydict()
    vectors = np.array(rows["vector"], np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    of = np.array(rows["slide"])
    with (out / "slides" / "slides.csv").open(newline="", encoding="utf-8") as file:
        brown = {row["slide"]: row["brown"] for row in csv.DictReader(file)}
    assert {s: b for s, b in zip(rows["slide"], rows["brown"], strict=True)} == brown
    return {name: vectors[of == name] for name in brown}, brown


def test_the_share_of_near_slides_of_the_same_class_is_that_of_late_interaction_by_hand(demo, tiles):
    vectors, brown = tiles
    found = []
    for name, own in vectors.items():
        scores = {other: (own @ rows.T).max(axis=1).mean() for other, rows in vectors.items() if other != name}
        nearest = sorted(scores, key=lambda other: -scores[other])[:3]
        found += [brown[other] == brown[name] for other in nearest]
    share = re.search(r"share of its class: embedding ([\d.]+)", demo[1])
    assert share
    assert float(share[1]) == pytest.approx(np.mean(found), abs=0.021)  # ties of float16 aside: 2 of 96
    assert np.mean(found) > 0.6


def test_the_probe_has_slides_as_cases_and_parts_them(demo, tiles):
    result = read_result(demo[0] / "probe-linear")
    assert result.request.level == "slide"
    predicted = pq.read_table(demo[0] / "probe-linear" / "predictions.parquet").to_pydict()
    assert len(predicted["key"]) == len(set(predicted["key"])) == result.test.rows
    assert set(predicted["key"]) < set(tiles[1])
    assert result.test.metrics["auc_macro"].value > 0.7
    assert call("indexer", "pool", demo[0] / "db", "--by", "slide", "--json").json["groups"] == len(tiles[1])


def test_the_page_shows_tiles_in_their_slides_and_says_what_the_data_are(demo):
    page = (demo[0] / "demo.html").read_text()
    assert page.count("src='data:image/png;base64,") == 6 * (1 + 3) * 2  # of a query and 3 hits, tile and slide
    assert slide_search.WHAT.split("(")[0] in page
    metric = read_result(demo[0] / "probe-linear").test.metrics["auc_macro"]
    assert f"<b>{metric.value:.3f}</b>" in page
    links = re.findall(r"""(?:src|href)\s*=\s*["']?([^\s"'>]+)""", page)
    assert [link for link in links if not link.startswith(("data:", "#"))] == ["probe-linear/report.html"]


def test_the_slides_are_pyramids_that_openslide_reads(demo):
    with openslide.OpenSlide(demo[0] / "slides" / "slide-00.tif") as slide:
        assert slide.level_dimensions == tuple((WIDTH >> level, HEIGHT >> level) for level in range(3))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
