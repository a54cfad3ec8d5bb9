"""Every kind of page in Chromium: nothing is cut or overlaps at any width or on paper, and folded parts print open.

Skipped where Chromium or playwright is not installed.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from indexer.search.drawing.pages import html_page
from indexer.search.options import SearchOptions
from indexer.search.results import Pictures, QueryHits, SearchResult, Thumbnail
from indexer.types import Hit
from probes.reporting.model_card import card_html
from probes.runs.result_files import read_result
from tests.commands import call
from tests.probes.cohort import make_cohort, unit
from tests.tables import make_table

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")

LONG = (
    "pneumonia with parapneumonic effusion of the left lower lobe",
    "Pneumothorax_after_central_venous_catheter_placement_without_mediastinal_shift",
    "<b>Mönckeberg</b> & others",
)
GROUP = "patient_identifier_of_the_hospital"
SCREENS, PAPER = (420, 1000, 1400), 688  # pixels; A4 less the margins of the style sheet
SMALLEST = 11  # pixels of text in a table or drawing

OUTSIDE = """(paper) => {
  const room = document.documentElement.clientWidth, out = [];
  for (const element of document.querySelectorAll('body, body *')) {
    const box = element.getBoundingClientRect(), named = element.tagName + ' ' + element.textContent.slice(0, 40);
    if (!box.width || (!paper && element.closest('.wide') && !element.matches('.wide'))) continue;
    if (box.right > room + 1 || box.left < -1) out.push('outside: ' + named);
    const clips = ['hidden', 'clip'].includes(getComputedStyle(element).overflowX) && !element.closest('svg');
    if (clips && element.scrollWidth > element.clientWidth + 1) out.push('cut: ' + named);
  }
  if (document.documentElement.scrollWidth > room) out.push('page of ' + document.documentElement.scrollWidth);
  return out;
}"""
OVERLAPS = """() => {
  const range = document.createRange(), out = [];
  for (const row of document.querySelectorAll('tr, .legend li, .facts, .terms')) {
    const boxes = [...row.children].flatMap((cell, i) => {
      range.selectNodeContents(cell);
      const drawn = [...range.getClientRects()].filter(b => b.width > 1 && b.height > 1);
      return drawn.map(b => [i, b, cell.textContent.slice(0, 30)]);
    });
    for (const [i, a, text] of boxes) for (const [j, b, other] of boxes)
      if (i < j && Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3) out.push(text + ' / ' + other);
  }
  return out;
}"""
SVG_CUT = """() => [...document.querySelectorAll('.plot svg')].flatMap(svg => {
  const f = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(text => {
    const b = text.getBoundingClientRect();
    return b.left < f.left - 1 || b.right > f.right + 1 || b.top < f.top - 1 || b.bottom > f.bottom + 1;
  }).map(text => text.textContent);
})"""
SMALLEST_TEXT = """() => {
  const scale = svg => svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
  const shown = [...document.querySelectorAll('td, th, .plot svg text')].filter(e => e.textContent.trim());
  return Math.min(...shown.map(e => parseFloat(getComputedStyle(e).fontSize) * scale(e.closest('svg'))));
}"""
HIDDEN_ROWS = "() => [...document.querySelectorAll('td')].filter(e => !e.checkVisibility() || !e.offsetHeight).length"


def many_classes(folder, classes):
    """A table with long names of classes, groups and subgroups."""
    rng = np.random.default_rng(3)
    centres, y = rng.standard_normal((classes, 16)), rng.permutation(np.repeat(np.arange(classes), 24))
    letters = 37 if classes == 30 else None  # all but these are too long to stand upright above a column
    scanner = ("A very long name of a scanner, with its software and the site at which it stands", "B")
    metadata = [
        {GROUP: f"p{i // 2:04d}", "finding": f"{LONG[c % 3][:letters]} {c:02d}", "scanner": scanner[i % 2]}
        for i, c in enumerate(y)
    ]
    make_table(folder, unit(centres[y] + 1.2 * rng.standard_normal((len(y), 16))), metadata)
    return str(folder)


def search_page():
    pixels = np.zeros((224, 224, 3), np.uint8)
    key = "/".join(["a_very_long_folder_name_without_any_blank"] * 4) + "/im1.dcm#frame0007"
    hits = [Hit(i, key, 0.9, i, {"finding": LONG[1], "slice_location": -12.5, "note": None}) for i in range(1, 6)]
    missing = Thumbnail(None, f"{key}: cannot be opened. Name the folder with --pictures-from.")
    pictures = Pictures(
        [Thumbnail(pixels)], {hit.row_id: Thumbnail(pixels) if hit.row_id < 4 else missing for hit in hits}
    )
    options = SearchOptions(5, where="finding = 'mass' AND slice_location BETWEEN -20 AND 20")
    return html_page(SearchResult("t", 3, "images", "exact scan", options, [QueryHits(key, hits)], pictures))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Name → HTML: reports of 5, 13, 30 and 45 classes and of two, a comparison, a card and a search."""
    folder, out = tmp_path_factory.mktemp("pages"), {}
    for classes in (5, 13, 30, 45):
        db, result = many_classes(folder / f"db{classes}", classes), folder / f"out{classes}"
        options = ("--label", "finding", "--group", GROUP, "--split", "stratified", "--subgroup", "scanner")
        done = call("probes", "prototype", db, *options, "--replicates", "20", "--out", result)
        assert done.code == 0, done.err
        out[f"{classes} classes"] = (result / "report.html").read_text(encoding="utf-8")
    for name in ("efficientnet-lite0", "an-encoder.with-a-very-long-name.and-precision.fp32"):
        make_cohort(folder / "cohort", name=name, patients=120, images=1)
    both = ("--tables", "efficientnet-lite0,an-encoder.with-a-very-long-name.and-precision.fp32")
    ill = ("--label", "ill", "--group", "patient", "--replicates", "20")
    for arguments in (
        ("knn", folder / "cohort", "--table", "efficientnet-lite0", *ill, "--subgroup", "sex", "--out", folder / "two"),
        ("compare", folder / "cohort", *both, *ill, "--out", folder / "compared"),
    ):
        done = call("probes", *arguments)
        assert done.code == 0, done.err
    out["2 classes"] = (folder / "two" / "report.html").read_text(encoding="utf-8")
    out["comparison"] = (folder / "compared" / "comparison.html").read_text(encoding="utf-8")
    out["card"] = card_html(read_result(folder / "out5"))
    out["search"] = search_page()
    return out


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def tab(browser):
    """A page that fails on any request, since pages load nothing."""
    opened = browser.new_page(viewport={"width": SCREENS[0], "height": 900})
    asked = []
    opened.route("**/*", lambda route: (asked.append(route.request.url), route.abort()))
    yield opened
    assert [url for url in asked if not url.startswith("data:")] == []
    opened.close()


@pytest.mark.case("U10")
def test_nothing_is_cut_or_overlaps_at_any_width_and_all_text_can_be_read(pages, tab):
    for name, text in pages.items():
        tab.set_content(text)
        for width in SCREENS:
            tab.set_viewport_size({"width": width, "height": 900})
            assert (name, width, tab.evaluate(OUTSIDE, False)) == (name, width, [])
            assert (name, width, tab.evaluate(OVERLAPS)) == (name, width, [])
            assert (name, width, tab.evaluate(SVG_CUT)) == (name, width, [])
            assert name == "search" or tab.evaluate(SMALLEST_TEXT) >= SMALLEST


@pytest.mark.case("U10")
def test_on_paper_no_column_is_lost_and_folded_parts_are_open(pages, tab):
    tab.emulate_media(media="print")
    tab.set_viewport_size({"width": PAPER, "height": 900})
    for name, text in pages.items():
        tab.set_content(text)
        assert (name, tab.evaluate(OUTSIDE, True)) == (name, [])
        assert (name, tab.evaluate(OVERLAPS)) == (name, [])
        assert (name, tab.evaluate(HIDDEN_ROWS)) == (name, 0)
    tab.emulate_media(media="screen")
    tab.set_content(pages["5 classes"])
    assert tab.evaluate(HIDDEN_ROWS) > 300  # the checklists, folded on a screen


def test_pages_are_dark_where_the_reader_wants_it_and_paper_never_is(pages, tab):
    ground = "() => getComputedStyle(document.documentElement).backgroundColor"
    text = "() => getComputedStyle(document.querySelector('svg text')).fill"
    tab.set_content(pages["5 classes"])
    found = {}
    for scheme, media in (("light", "screen"), ("dark", "screen"), ("dark", "print")):
        tab.emulate_media(color_scheme=scheme, media=media)
        found[scheme, media] = tab.evaluate(ground), tab.evaluate(text)
    assert found["light", "screen"] == ("rgb(255, 255, 255)", "rgb(26, 33, 41)")
    assert found["dark", "screen"] == ("rgb(20, 24, 28)", "rgb(229, 233, 237)")
    assert found["dark", "print"] == found["light", "screen"]


def test_a_report_of_many_classes_names_them_all_and_lists_the_commonest_errors_past_thirty(pages, tab):
    heads = "() => [...document.querySelectorAll('.grid thead th')].slice(1).map(e => e.textContent)"
    tab.set_content(pages["30 classes"])
    rows = "() => [...document.querySelectorAll('.grid td:first-child')].map(e => e.textContent)"
    assert tab.evaluate(heads) == tab.evaluate(rows)
    assert len(tab.evaluate(heads)) == 30
    tab.set_content(pages["13 classes"])
    assert tab.evaluate(heads) == [str(number) for number in range(1, 14)]
    tab.set_content(pages["45 classes"])
    assert tab.evaluate("() => document.querySelectorAll('.grid').length") == 0
    assert "Most frequent errors" in pages["45 classes"]
