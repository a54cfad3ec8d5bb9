"""The label page in a real browser: keys, undo, batches, and what is kept while the table is locked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from indexer.archive.shards import find_shards
from indexer.pipeline.run import index
from indexer.store.table import EmbeddingStore
from tests.archives import archive
from tests.fakes import FakeEncoder
from tests.serve.live import Live, slow, until

# playwright leaves the loop of its own thread to the collector
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    archive(tmp_path, shards=4, images=20)
    shards = find_shards([str(tmp_path / "shards")]).shards
    index(shards, EmbeddingStore.create(str(tmp_path / "db"), "t", FakeEncoder().spec), FakeEncoder())
    server = Live(tmp_path / "db", labels="finding")
    yield server
    server.stop()


@pytest.fixture
def page(browser, live: Live) -> Iterator[object]:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    made = context.new_page()
    made.set_default_timeout(60_000)
    begun(made, live)
    yield made
    context.close()


def begun(page, live: Live) -> None:
    """A page with images, a name and two classes."""
    page.goto(f"{live.address}/t/t/label")
    page.wait_for_selector("#hits .hit")
    page.fill("input[name=by]", "ab")
    for name in ("sharp", "blurred"):
        page.fill("#name", name)
        page.press("#name", "Enter")
    page.click("#hits .hit >> nth=0")


def shown(page) -> list[str]:
    return page.eval_on_selector_all("#hits .hit", "all => all.map(one => one.dataset.key)")


def tags(page) -> list[str]:
    return page.eval_on_selector_all("#hits .tag", "all => all.map(one => one.textContent)")


def written(live: Live) -> dict[str, str]:
    store = EmbeddingStore.open(live.store.uri)
    if "finding" not in store.columns():
        return {}
    rows = store.vectors("finding IS NOT NULL", ["key", "finding"]).columns.to_pylist()
    return {row["key"]: row["finding"] for row in rows}


def until_written(page, live: Live, expected: dict[str, str]) -> None:
    """The page says that nothing waits, and the table holds these labels."""
    until(page, "!document.querySelector('#status').textContent.includes('not yet written')")
    assert written(live) == expected


def test_keys_label_space_skips_and_u_takes_back(page, live):
    keys = shown(page)
    for key in ("1", "2", " ", "1", "u", "2"):
        page.keyboard.press(key)
    assert tags(page)[:5] == ["sharp", "blurred", "skipped", "blurred", ""]
    assert page.get_attribute("#hits .current .hit", "data-key") == keys[4]
    assert page.inner_text("#classes").split() == ["1", "sharp", "1", "2", "blurred", "2"]
    until_written(page, live, {keys[0]: "sharp", keys[1]: "blurred", keys[3]: "blurred"})
    for _ in range(3):  # the written one, the skipped one, and another written one
        page.keyboard.press("u")
    assert tags(page)[:5] == ["sharp", "", "", "", ""]
    until_written(page, live, {keys[0]: "sharp"})


def test_ten_labels_are_one_version_and_the_next_page_has_none_of_them(page, live):
    before = EmbeddingStore.open(live.store.uri).version
    first = shown(page)
    assert len(first) == 20
    for i in range(20):
        page.keyboard.press("12"[i % 2])
    until(page, f"!document.querySelector('[data-key={first[0]}]') && document.querySelector('#hits .hit')")
    until_written(page, live, {key: ("sharp", "blurred")[i % 2] for i, key in enumerate(first)})
    assert EmbeddingStore.open(live.store.uri).version - before <= 4
    assert not set(first) & set(shown(page))
    until(page, "document.querySelector('#status').textContent.includes('Ordered by the probe')")
    page.keyboard.press("u")  # the last one of the page before comes back
    assert shown(page)[0] == first[-1]
    until_written(page, live, {key: ("sharp", "blurred")[i % 2] for i, key in enumerate(first[:-1])})


def test_labels_that_cannot_be_written_are_kept_over_a_reload_and_sent_again(page, live):
    keys = shown(page)
    with EmbeddingStore.open(live.store.uri).lock():
        page.keyboard.press("1")
        page.keyboard.press("2")
        page.wait_for_selector("#error:not([hidden])")
        assert "2 labels are kept here" in page.inner_text("#error")
        page.reload()
        page.wait_for_selector("#hits .hit")
        assert not {keys[0], keys[1]} & set(shown(page))
        assert written(live) == {}
    until_written(page, live, {keys[0]: "sharp", keys[1]: "blurred"})


def test_by_pointer_alone_images_are_labelled_skipped_and_taken_back(page, live):
    page.click("#hits .hit >> nth=2")
    page.click("#classes li >> nth=1")
    page.click("#label > .classes [data-do=skip]")
    page.click("#classes li >> nth=0")
    assert tags(page)[:6] == ["", "", "blurred", "skipped", "sharp", ""]
    page.click("#label > .classes [data-do=undo]")
    assert tags(page)[:6] == ["", "", "blurred", "skipped", "", ""]


def test_an_image_chosen_before_all_of_the_page_is_there_stays_chosen(browser, live):
    context = browser.new_context()
    page = context.new_page()
    slow(page, "/labels")
    page.goto(f"{live.address}/t/t/label")
    page.click("#hits .hit >> nth=2")
    until(page, "document.querySelector('#status').textContent.includes('without a label')")
    page.wait_for_timeout(200)
    keys = shown(page)
    assert page.get_attribute("#hits .current .hit", "data-key") == keys[2]
    context.close()


def test_a_search_that_is_asked_for_while_images_are_on_their_way_is_done_next(browser, live):
    context = browser.new_context()
    page = context.new_page()
    slow(page, "/labels/next", first=1)
    page.goto(f"{live.address}/t/t/label")
    page.fill("input[name=key]", "im7")
    page.press("input[name=key]", "Enter")
    until(page, "document.querySelector('#status').textContent.includes('without a label')")
    assert "Ordered by your search" in page.inner_text("#status")
    assert len(set(shown(page)) & set(live.nearest("im7")[:20])) > 10  # a few are drawn at random
    context.close()


def test_the_estimate_is_of_the_chosen_groups_though_labels_of_other_groups_were_waiting(page, live):
    assert page.input_value("select[name=group]") == "patient"
    page.keyboard.press("1")
    with page.expect_response(lambda answer: answer.request.method == "GET" and answer.url.endswith("?group=sex")):
        page.select_option("select[name=group]", "sex")


def test_without_a_name_nothing_is_labelled(page, live):
    page.fill("input[name=by]", "")
    page.click("#hits .hit >> nth=0")
    page.keyboard.press("1")
    assert "name or initials" in page.inner_text("#error")
    assert page.evaluate("document.activeElement.name") == "by"
    assert set(tags(page)) == {""}


def test_an_image_is_labelled_while_it_is_large_and_a_search_can_begin(page, live):
    keys = shown(page)
    page.keyboard.press("Enter")
    assert page.inner_text("#large-key") == keys[0]
    page.keyboard.press("2")
    assert page.inner_text("#large-key") == keys[1]
    page.keyboard.press("Escape")
    assert tags(page)[:2] == ["blurred", ""]
    page.fill("input[name=key]", keys[0])
    page.press("input[name=key]", "Enter")
    until(page, "document.querySelector('#status').textContent.includes('Ordered by your search')")
    hits = live.nearest(keys[0])
    places = [hits.index(key) for key in shown(page) if key in hits[:20]]
    assert len(places) > 5


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (400, "dark"), (1400, "dark"), (2500, "light")])
def test_nothing_is_wider_than_the_window_or_from_elsewhere(browser, live, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: wrong.append(r.url) if not r.url.startswith(live.address) else None)
    page.goto(f"{live.address}/t/t/label")
    page.wait_for_selector("#hits .hit")
    page.fill("#name", "a class with quite a long name that does not fit on one line of a telephone")
    page.press("#name", "Enter")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()
    assert wrong == []
