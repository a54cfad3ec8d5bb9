"""The search page in a real browser: what a user does, and what is then shown and asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from indexer.archive.shards import find_shards
from indexer.groups.make import pool
from indexer.mapping.make import make_map
from indexer.mapping.options import MapOptions
from indexer.pipeline.run import index
from indexer.search.answer import answer
from indexer.search.options import SearchOptions
from indexer.search.queries import Query
from indexer.search.searcher import Searcher
from indexer.store.table import EmbeddingStore
from tests.archives import archive, png
from tests.fakes import FakeEncoder
from tests.serve.live import Live, slow, until

# playwright leaves the loop of its own thread to the collector
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root = tmp_path_factory.mktemp("page")
    archive(root, shards=6, images=10)
    shards = find_shards([str(root / "shards")]).shards
    index(shards, EmbeddingStore.create(str(root / "db"), "t", FakeEncoder().spec), FakeEncoder())
    pool(EmbeddingStore.open(str(root / "db")), "patient")
    make_map(EmbeddingStore.open(str(root / "db")), MapOptions())
    server = Live(root / "db")
    yield server
    server.stop()


@pytest.fixture(params=[(1400, "light")], ids=str)
def page(browser, live: Live, request) -> Iterator[object]:
    """A page that fails the test on an error in the console and on a request to anywhere else."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    made = context.new_page()
    made.set_default_timeout(60_000)
    wrong: list[str] = []
    made.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on(
        "request", lambda r: wrong.append(r.url) if not r.url.startswith((live.address, "blob:", "data:")) else None
    )
    yield made
    context.close()
    assert wrong == []


def shown(page) -> list[str]:
    until(page, "!document.querySelector('#hits').hasAttribute('aria-busy')")
    return page.eval_on_selector_all("#hits .hit", "all => all.map(one => one.dataset.key)")


def opened(page, live: Live, query: str = "") -> None:
    page.goto(f"{live.address}/t/t{query}")
    page.wait_for_load_state("networkidle")


def state(page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def test_a_key_finds_its_neighbours_and_the_address_repeats_the_search(page, live):
    opened(page, live)
    page.fill("input[name=key]", "im5")
    page.press("input[name=key]", "Enter")
    page.wait_for_selector("#hits .hit")
    assert shown(page) == live.nearest("im5")
    assert state(page) == {"like": ["im5"]}
    again = page.context.new_page()
    again.goto(page.url)
    again.wait_for_selector("#hits .hit")
    assert shown(again) == live.nearest("im5")


def test_a_dropped_picture_is_embedded_and_finds_itself(page, live):
    opened(page, live)
    page.set_input_files("input[name=file]", files=[{"name": "mine.png", "mimeType": "image/png", "buffer": png(23)}])
    page.wait_for_selector("#hits .hit")
    assert shown(page)[0] == "im23"
    assert "mine.png" in page.inner_text("#examples")


def test_words_are_disabled_with_the_reason_where_the_encoder_has_none(page, live):
    opened(page, live)
    assert page.is_disabled("input[name=text]")
    assert "embeds images only" in page.get_attribute("input[name=text]", "placeholder")


def test_filters_facets_groups_and_the_slider_narrow_the_hits(page, live):
    opened(page, live, "?like=im5")
    page.wait_for_selector(".facet")
    page.check(".facet:has-text('F') input")
    until(page, "location.search.includes('facet')")
    assert set(shown(page)) == set(live.nearest("im5", where="sex = 'F'"))
    page.uncheck(".facet:has-text('F') input")
    until(page, "!location.search.includes('facet')")
    page.select_option("select[name=group]", "patient")
    until(page, "location.search.includes('group')")
    assert shown(page) == live.nearest("im5", one_per="patient")
    page.click(".further >> nth=0")
    until(page, "!location.search.includes('group')")
    assert len(shown(page)) <= 4
    opened(page, live, "?like=im5&same=patient")
    assert shown(page) == live.nearest("im5", exclude_same="patient")
    opened(page, live, "?like=im5&min=0.5")
    assert shown(page) == live.nearest("im5", min_score=0.5)
    assert "of random pairs are closer" in page.inner_text("#least")
    opened(page, live, "?like=im5&where=" + "n+%3C+20")
    assert set(shown(page)) == {f"im{n}" for n in range(20)} - {"im5"}


def test_hits_are_groups_with_their_best_parts_and_a_group_is_searched_with(page, live):
    def asked(query: Query) -> list[str | None]:
        return [
            hit.group for hit in answer(Searcher(live.store), query, SearchOptions(k=48, by="patient")).queries[0].hits
        ]

    opened(page, live, "?like=im5")
    page.select_option("select[name=by]", "patient")
    until(page, "location.search.includes('by=patient') && !!document.querySelector('#hits [data-group]')")
    groups = page.eval_on_selector_all("#hits .hit", "all => all.map(one => one.dataset.group)")
    assert groups == asked(Query(keys=("im5",)))
    assert page.is_disabled("select[name=group]")
    page.click("#hits li >> nth=1 >> text=search with this patient")
    until(page, "location.search.includes('groups=') && !location.search.includes('like=')")
    until(page, "!document.querySelector('#hits').hasAttribute('aria-busy')")
    found = page.eval_on_selector_all("#hits .hit", "all => all.map(one => one.dataset.group)")
    assert found == asked(Query(groups=(groups[1],)))
    parts = page.locator("#hits li >> nth=0").locator(".parts button")
    assert parts.count() >= 1
    until(page, "[...document.querySelectorAll('#hits li:first-child .parts img')].every(one => one.naturalWidth > 0)")
    parts.first.click()
    page.wait_for_selector("#large[open]")
    page.keyboard.press("Escape")
    page.click("#hits li >> nth=0 >> .further")
    until(page, "!location.search.includes('by=') && location.search.includes('facet=')")


def test_a_filter_that_is_wrong_says_so_and_shows_no_old_hits(browser, live):
    page = browser.new_page()  # the console tells of the refused request
    opened(page, live, "?like=im5&where=nothing")
    page.wait_for_selector("#error:not([hidden])")
    assert "nothing" in page.inner_text("#error")
    assert shown(page) == []
    page.close()


def test_more_and_less_like_this_by_keyboard_alone(page, live):
    opened(page, live, "?like=im5")
    near = live.nearest("im5")
    assert shown(page) == near  # not before: hits that are replaced lose the focus
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("+")
    until(page, "document.querySelectorAll('.chip').length == 2")
    assert state(page)["like"] == ["im5", near[1]]
    assert near[1] not in shown(page)
    page.keyboard.press("ArrowRight")
    last = page.evaluate("document.activeElement.dataset.key")
    page.keyboard.press("-")
    until(page, "document.querySelectorAll('.chip').length == 3")
    assert state(page)["unlike"] == [last]
    assert last not in shown(page)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "key"
    page.go_back()
    until(page, "document.querySelectorAll('.chip').length == 2")


def test_a_hit_opens_large_with_its_columns_its_window_and_its_neighbours(page, live):
    opened(page, live, "?like=im5")
    first = live.nearest("im5")[0]
    page.click("#hits .hit >> nth=0")
    page.wait_for_selector("dialog[open] .results .hit")
    assert page.inner_text("#large-key") == first
    assert "patient" in page.inner_text("dialog dl")
    assert page.eval_on_selector_all("dialog .hit", "a => a.map(x => x.dataset.key)") == live.nearest(first)[:8]
    with page.expect_response(lambda r: "window=minmax" in r.url) as asked:
        page.select_option("dialog select[name=window]", "minmax")
    assert asked.value.status == 200
    page.keyboard.press("Escape")
    assert not page.is_visible("dialog")


def test_pages_go_on_where_the_last_ended(page, live):
    opened(page, live, "?like=im5")
    assert len(shown(page)) == 48
    page.click("#pages [data-step='1']")
    until(page, "location.search.includes('page=1')")
    until(page, "document.querySelectorAll('#hits .hit').length == 11")
    assert page.inner_text("#pages span") == "Page 2"


@pytest.mark.parametrize(
    "page", [(400, "light"), (400, "dark"), (1400, "dark"), (2500, "light")], indirect=True, ids=str
)
def test_nothing_is_wider_than_the_window_and_pictures_are_drawn(page, live):
    for path in ("", "?like=im5&unlike=im7", "/map?colour=sex", "/failures", "/runs", "/health"):
        opened(page, live, path)
        wide, window = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= window, path
    opened(page, live, "?like=im5")
    assert page.eval_on_selector("#hits img", "img => img.decode().then(() => img.naturalWidth)") == 256


def test_the_health_page_checks_when_asked(page, live):
    opened(page, live, "/health")
    page.click("main button")
    page.wait_for_selector(".facts")
    assert "Rows" in page.inner_text(".facts")


def map_opened(page, live: Live, query: str = "") -> None:
    opened(page, live, "/map" + query)
    settled(page)


def settled(page) -> None:
    """The map has its points."""
    until(page, "!('busy' in document.querySelector('canvas').dataset)")


def selected(page) -> set[str]:
    """Keys of the selection, page by page."""
    keys = set(shown(page))
    while page.is_visible("#pages") and page.is_enabled("#pages [data-step='1']"):
        first = shown(page)[0]
        page.click("#pages [data-step='1']")
        until(page, f"document.querySelector('#hits .hit')?.dataset.key !== '{first}'")
        keys |= set(shown(page))
    return keys


def points(page, live: Live) -> dict[str, tuple[float, float]]:
    """Key → where it is drawn in the window while the whole map is shown."""
    found = page.request.get(f"{live.address}/api/v1/tables/t/map/points?x0=0&y0=0&x1=1&y1=1").json()
    box = page.locator("canvas").bounding_box()
    side = min(box["width"], box["height"])
    left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    return {key: (left + x * side, top + y * side) for key, x, y, _ in found["points"]}


def test_a_lasso_selects_the_images_inside_and_a_search_stays_within_them(page, live):
    map_opened(page, live)
    assert "60 images in view, as points" in page.inner_text("#inview")
    assert "nearest on the map (60 images tested" in page.inner_text("figcaption")
    places = points(page, live)
    box = page.locator("canvas").bounding_box()
    middle, right, top, bottom = (
        box["x"] + box["width"] / 2, box["x"] + box["width"] - 2, box["y"] + 2, box["y"] + box["height"] - 2,
    )  # fmt: skip
    page.click("button[name=lasso]")
    page.mouse.move(middle, top)
    page.mouse.down()
    for corner in ((middle, bottom), (right, bottom), (right, top)):
        page.mouse.move(*corner, steps=4)
    page.mouse.up()
    page.wait_for_selector("#hits .hit")
    inside = {key for key, (x, _) in places.items() if x > middle}
    assert 0 < len(inside) < 60
    assert f"{len(inside)} images selected" in page.inner_text("#status")
    assert selected(page) == inside
    page.click("#use a")
    page.wait_for_selector(".chip:has-text('a region of the map')")
    page.fill("input[name=key]", "im5")
    page.press("input[name=key]", "Enter")
    page.wait_for_selector("#hits .hit")
    assert set(shown(page)) == inside - {"im5"}
    page.click(".chip:has-text('region') button")
    until(page, "!location.search.includes('region')")
    assert shown(page) == live.nearest("im5")


def test_the_map_is_used_by_keyboard_alone_and_its_address_repeats_it(page, live):
    map_opened(page, live, "?colour=sex")
    page.wait_for_selector("#legend li")
    assert page.eval_on_selector_all("#legend li", "all => all.map(one => one.innerText.trim())") == ["F 30", "M 30"]
    page.focus("canvas")
    for key in ("+", "+", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
    settled(page)
    page.keyboard.press("v")
    until(page, "location.search.includes('region')")
    page.wait_for_selector("#hits .hit")
    keys = selected(page)
    assert 0 < len(keys) < 60
    assert page.inner_text("#inview").startswith(f"{len(keys)} image")
    again = page.context.new_page()
    map_opened(again, live, "?" + urlsplit(page.url).query)
    again.wait_for_selector("#hits .hit")
    assert selected(again) == keys
    page.focus("canvas")
    page.keyboard.press("Escape")
    until(page, "!location.search.includes('region')")
    assert shown(page) == []


def test_a_click_on_a_point_shows_its_image_and_a_click_on_that_searches_with_it(page, live):
    map_opened(page, live)
    places = points(page, live)

    def alone(key: str) -> float:
        x, y = places[key]
        return min((x - a) ** 2 + (y - b) ** 2 for other, (a, b) in places.items() if other != key)

    key = max(places, key=alone)
    page.mouse.click(*places[key])
    page.wait_for_selector("#hits .hit")
    assert shown(page) == [key]
    page.click("#hits .hit")
    page.wait_for_selector("#examples .chip")
    page.wait_for_selector("#hits .hit")
    assert shown(page) == live.nearest(key)


def test_hits_that_come_late_are_not_shown_for_a_search_that_was_left(page, live):
    slow(page, "/facets")
    with page.expect_response(lambda answer: answer.url.endswith("/query")):
        page.goto(f"{live.address}/t/t?like=im5")
    page.click("#examples .chip button")
    page.wait_for_selector("#welcome .hit")
    page.wait_for_timeout(1500)
    assert shown(page) == []


def test_a_page_of_a_selection_that_comes_late_does_not_replace_the_one_chosen_since(page, live):
    slow(page, "/map/region", first=2)
    map_opened(page, live)
    settled(page)
    page.focus("canvas")
    page.keyboard.press("v")
    page.wait_for_selector("#hits .hit")
    first = shown(page)
    page.click("#pages [data-step='1']")  # a second late
    page.evaluate("document.querySelector(\"#pages [data-step='-1']\").disabled = false")
    page.click("#pages [data-step='-1']")
    page.wait_for_timeout(1500)
    assert shown(page) == first
    assert page.inner_text("#pages span") == "Page 1"


def test_all_files_of_the_pages_together_are_below_150_kb():
    from indexer.serve.page import assets

    folder = Path(assets.__file__).parent
    files = [*(folder / "static").iterdir(), *(folder / "templates").iterdir()]
    assert sum(p.stat().st_size for p in files) + len(assets.content("style.css")) < 150_000
