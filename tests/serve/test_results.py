"""What other commands made of a table, as the server shows it: test images of a probe, comparisons, near-duplicates."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from indexer.archive.shards import find_shards
from indexer.pipeline.run import index
from indexer.serve.app import create_app
from indexer.serve.settings import Settings
from indexer.store.table import EmbeddingStore
from tests.archives import archive
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.serve.live import Live, until
from tests.tables import unit

# playwright leaves the loop of its own thread to the collector
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

API = "/api/v1/tables/t"
LEAST = 0.55  # cosine of a near-duplicate here


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of 60 pictures in two tables; beside it a probe, a comparison and a file of near-duplicates."""
    root = tmp_path_factory.mktemp("results")
    archive(root, shards=6, images=10)
    shards = find_shards([str(root / "shards")]).shards
    for seed, name in enumerate("tu"):
        index(
            shards, EmbeddingStore.create(str(root / "db"), name, FakeEncoder(seed=seed).spec), FakeEncoder(seed=seed)
        )
    own = ("--label", "sex", "--group", "patient", "--replicates", "50")
    near = ("near-duplicates", root / "db", "--table", "t", "--threshold", LEAST, "--group", "patient")
    for program, *arguments in (
        ("probes", "linear", root / "db", "--table", "t", *own, "--out", root / "fitted"),
        ("probes", "compare", root / "db", "--tables", "t,u", *own, "--out", root / "both"),
        ("indexer", *near, "--split", "sex", "--out", root / "near.parquet"),
    ):
        done = call(program, *arguments)
        assert done.code == 0, done.err
    return root


@pytest.fixture(scope="module")
def client(root: Path) -> TestClient:
    app = create_app(Settings(str(root / "db")), load_encoder=lambda _: FakeEncoder())
    return TestClient(app, base_url="http://127.0.0.1:8321", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def predictions(root: Path) -> dict[str, tuple[str, str, float]]:
    """Key → true class, called class and its probability, from the file that the probe wrote."""
    table = pq.read_table(root / "fitted" / "predictions.parquet")
    p = np.stack([table.column(f"p({name})").to_numpy() for name in "FM"], axis=1)
    called = [("FM"[i], float(row[i])) for row, i in zip(p, p.argmax(1), strict=True)]
    keys, true = table.column("key").to_pylist(), table.column("true").to_pylist()
    return {key: (own, *one) for key, own, one in zip(keys, true, called, strict=True)}


def near_pairs(root: Path) -> dict[frozenset[str], float]:
    """All pairs of keys of cosine LEAST and above, by numpy."""
    store = EmbeddingStore.open(str(root / "db"), "t")
    keys = [key for batch in store.scan(["key"]) for key in batch.column("key").to_pylist()]
    x = unit(store.vectors().vectors)
    scores = x @ x.T
    return {
        frozenset((keys[i], keys[j])): scores[i, j] for i, j in zip(*np.triu_indices(len(keys), 1), strict=True)
        if scores[i, j] >= LEAST
    }  # fmt: skip


def patient(key: str) -> str:
    return f"p{int(key[2:]) // 4}"


def sex(key: str) -> str:
    return "FM"[int(key[2:]) % 2]


def test_a_cell_of_the_confusion_matrix_gives_its_test_images(client: TestClient, predictions) -> None:
    for true in "FM":
        for called in "FM":
            found = client.get(f"{API}/probes/fitted/predictions", params={"true": true, "called": called}).json()
            right = {key for key, (own, other, _) in predictions.items() if (own, other) == (true, called)}
            assert {one["key"] for one in found["images"]} == right
            assert found["count"] == len(right) == found["confusion"]["FM".index(true)]["FM".index(called)]
    everything = client.get(f"{API}/probes/fitted/predictions").json()["images"]
    wrong = [one["right"] for one in everything]
    assert wrong == sorted(wrong), "wrong ones come first"
    confident = [one["confidence"] for one in everything if not one["right"]]
    assert confident == sorted(confident, reverse=True)


def test_a_row_of_the_calibration_gives_its_test_images_and_is_the_results_own(client: TestClient, predictions) -> None:
    found = client.get(f"{API}/probes/fitted/predictions").json()
    result = client.get(f"{API}/probes/fitted").json()
    own = [(b["low"], b["high"], b["rows"]) for b in result["calibration"]["after"]["bins"]]
    assert [(b["low"], b["high"], b["rows"]) for b in found["bins"]] == own
    for one in found["bins"]:
        images = client.get(f"{API}/probes/fitted/predictions", params={"bin": one["bin"]}).json()["images"]
        inside = {key for key, (*_, p) in predictions.items() if one["low"] < p <= one["high"]}
        assert {image["key"] for image in images} == inside
        assert one["observed"] == pytest.approx(np.mean([image["right"] for image in images]))
    page = client.get(f"{API}/probes/fitted/predictions", params={"limit": 5, "offset": 3}).json()["images"]
    assert page == client.get(f"{API}/probes/fitted/predictions").json()["images"][3:8]


def test_predictions_that_are_not_the_results_are_refused(root: Path, client: TestClient, tmp_path: Path) -> None:
    file = root / "fitted" / "predictions.parquet"
    kept = file.read_bytes()
    table = pq.read_table(file)
    try:
        for damage in (
            lambda: pq.write_table(table.slice(0, 3), file),
            lambda: pq.write_table(table.set_column(0, "other", table.column(0)), file),
            lambda: file.write_bytes(kept[:-9]),
        ):
            damage()
            answer = client.get(f"{API}/probes/fitted/predictions")
            assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
            assert str(root) not in answer.text
        file.unlink()
        assert client.get(f"{API}/probes/fitted/predictions").status_code == 404
        assert "look at them" not in client.get("/t/t/probes").text
    finally:
        file.write_bytes(kept)


def test_comparisons_are_those_beside_the_database_with_this_table(client: TestClient, root: Path) -> None:
    (found,) = client.get(f"{API}/comparisons").json()
    whole = client.get(f"{API}/comparisons/both").json()
    assert (found["name"], [one["table"] for one in found["tables"]]) == ("both", ["t", "u"])
    assert found["differences"] == whole["differences"]
    assert client.get("/t/t/compare/both").text == (root / "both" / "comparison.html").read_text()
    assert "both" in client.get("/t/u/compare").text
    for name in ("fitted", "none", "..%2fdb"):
        assert client.get(f"{API}/comparisons/{name}").status_code == 404


@pytest.mark.parametrize("source", [{"file": "near.parquet"}, {"threshold": LEAST, "group": "patient", "split": "sex"}])
def test_near_duplicates_are_every_pair_by_cluster_and_across(client: TestClient, root: Path, source: dict) -> None:
    pairs = near_pairs(root)
    assert len(pairs) > 5
    found = client.get(f"{API}/duplicates", params={**source, "limit": 1000}).json()
    assert found["origin"] == source.get("file", "computed now")
    every: dict[frozenset[str], float] = {}
    for one in found["pairs"]:
        params = {**source, "limit": 1000, "cluster": one["cluster"]}
        own = client.get(f"{API}/duplicates", params=params).json()["pairs"]
        assert [pair["score"] for pair in own] == sorted((pair["score"] for pair in own), reverse=True)
        assert own[0] == one, "a cluster is shown by its closest pair"
        every |= {frozenset(image["key"] for image in pair["images"]): pair["score"] for pair in own}
    assert every == pytest.approx(pairs, abs=1e-6)
    for across, group in (("groups", patient), ("splits", sex)):
        some = client.get(f"{API}/duplicates", params={**source, "limit": 1000, "across": across}).json()["pairs"]
        assert some
        for pair in some:
            one, other = (image["key"] for image in pair["images"])
            assert group(one) != group(other)
            assert [image["columns"]["patient"] for image in pair["images"]] == [patient(one), patient(other)]


def test_a_file_of_pairs_is_shown_with_its_own_table_alone(client: TestClient, root: Path) -> None:
    assert [one["file"] for one in client.get(f"{API}/duplicates/files").json()] == ["near.parquet"]
    assert client.get("/api/v1/tables/u/duplicates/files").json() == []
    assert client.get("/api/v1/tables/u/duplicates?file=near.parquet").status_code == 404
    for name in ("fitted/predictions.parquet", "../x.parquet", "predictions.parquet"):
        assert client.get(f"{API}/duplicates", params={"file": name}).status_code == 404
    assert client.get(f"{API}/duplicates", params={"threshold": LEAST, "across": "groups"}).status_code == 400


def test_a_file_of_pairs_that_holds_something_else_is_refused(client: TestClient, root: Path) -> None:
    table = pq.read_table(root / "near.parquet")
    file, n = root / "odd.parquet", table.num_rows
    asked = {"file": file.name, "across": "groups"}
    try:
        for name, values in (
            ("key_a", [[1]] * n), ("key_b", [None] * n), ("score", [float("nan")] * n), ("cluster", [None] * n),
            ("cluster_pairs", ["x"] * n), ("same_bytes", [None] * n), ("patient_a", [[1]] * n),
        ):  # fmt: skip
            place = table.schema.get_field_index(name)
            odd = table.set_column(place, name, pa.array(values)).replace_schema_metadata(table.schema.metadata)
            pq.write_table(odd, file)
            answer = client.get(f"{API}/duplicates", params=asked)
            assert (answer.status_code, "cannot be read" in answer.text) == (400, True), (name, answer.text)
            page = client.get("/t/t/duplicates", params=asked)
            assert (page.status_code, "cannot be read" in page.text) == (200, True), name
        for whole in (table, table.slice(0, 0)):
            pq.write_table(whole, file)
            assert client.get(f"{API}/duplicates", params=asked).json()["in_file"] == whole.num_rows
    finally:
        file.unlink()


def test_the_links_of_computed_pairs_have_the_whole_threshold(client: TestClient) -> None:
    """Rounded it would be another search, whose clusters have other numbers."""
    asked = {"compute": "true", "threshold": "0.5500000001"}
    text = client.get("/t/t/duplicates", params=asked).text
    links = [part.split('"')[0] for part in text.split('href="?')[1:] if "cluster=" in part.split('"')[0]]
    assert links
    assert all("threshold=0.5500000001&" in link.replace("&amp;", "&") for link in links)


@pytest.fixture(scope="module")
def live(root: Path) -> Iterator[Live]:
    server = Live(root / "db", table="t")
    yield server
    server.stop()


def opened(browser, live: Live, path: str):
    """A page that fails on an error in the console."""
    made = browser.new_page(viewport={"width": 1400, "height": 900})
    made.set_default_timeout(60_000)
    made.on("pageerror", lambda error: pytest.fail(str(error)))
    made.goto(live.address + path)
    return made


def keys(page) -> list[str]:
    return page.eval_on_selector_all("#hits .hit", "all => all.map(one => one.dataset.key)")


def test_a_cell_and_a_calibration_row_open_their_images_in_a_browser(browser, live: Live, predictions) -> None:
    page = opened(browser, live, "/t/t/probes")
    page.click("text=look at them")
    page.wait_for_selector(".cells a")
    cell = page.locator(".cells a").first
    (true, called) = cell.get_attribute("aria-label").split(" of ")[1].split(" called ")
    cell.click()
    page.wait_for_selector(".cells a[aria-current]")
    assert set(keys(page)) == {k for k, (own, other, _) in predictions.items() if (own, other) == (true, called)}
    page.locator(".bins a").last.click()
    page.wait_for_selector(".bins a[aria-current]")
    low, high = (float(t) for t in page.inner_text("tr.chosen td").split(" – "))
    assert set(keys(page)) == {k for k, (*_, p) in predictions.items() if low - 0.005 < p <= high + 0.005}
    assert page.eval_on_selector("#hits img", "img => img.decode().then(() => img.naturalWidth)") == 256
    first = keys(page)[0]
    page.click("#hits .hit")
    page.wait_for_selector("#hits button.hit")
    assert keys(page) == live.nearest(first)
    page.close()


def test_pairs_stand_side_by_side_and_a_cluster_opens_in_a_browser(browser, live: Live, root: Path) -> None:
    page = opened(browser, live, "/t/t/duplicates")
    page.wait_for_selector(".pairs li")
    shown = page.eval_on_selector_all(
        ".pairs li", "all => all.map(one => [...one.querySelectorAll('.hit')].map(h => h.dataset.key))"
    )
    assert {frozenset(pair) for pair in shown} <= set(near_pairs(root))
    boxes = [page.locator(".pairs .hit").nth(i).bounding_box() for i in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    page.click("text=Across patient")
    until(page, "location.search.includes('across=groups')")
    marked = page.eval_on_selector_all(".pairs li", "all => all.map(one => one.querySelectorAll('.unlike').length > 0)")
    assert marked
    assert all(marked)
    page.click("text=of this cluster >> nth=0")
    until(page, "location.search.includes('cluster=')")
    assert "of cluster" in page.inner_text("#status")
    page.click("summary:has-text('Compute now')")
    page.fill("input[name=threshold]", str(LEAST))
    page.click("text=Find pairs")
    until(page, "location.search.includes('compute=true')")
    assert "computed now" in page.inner_text("#status")
    page.close()


def test_a_comparison_is_shown_with_its_numbers_and_opens_in_a_browser(browser, live: Live, root: Path) -> None:
    truth = json.loads((root / "both" / "comparison.json").read_text())
    page = opened(browser, live, "/t/t/compare")
    page.wait_for_selector("table.compared")
    cells = page.eval_on_selector_all(
        "table.compared tbody tr",
        "all => all.map(row => [row.cells[0].innerText, row.cells[row.cells.length - 1].innerText])",
    )
    names = [name for name, _ in cells]
    assert names == ["t", "u", "t − u"]
    (difference,) = truth["differences"]
    shown = [float(re.findall(r"-?\d+\.\d+", text.replace("−", "-"))[0]) for _, text in cells]
    assert shown[0] - shown[1] == pytest.approx(shown[2], abs=0.002)  # each rounded
    assert shown[2] == pytest.approx(difference["delta"]["value"], abs=0.001)
    page.set_viewport_size({"width": 420, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= 420")
    assert page.locator("table.compared a").count() == 1  # this server shows no other table
    page.click("table.compared a")
    page.wait_for_url("**/t/t")
    page.go_back()
    page.click("h2 a:has-text('both')")
    page.wait_for_url("**/t/t/compare/both")
    assert page.inner_text("h1")
    assert page.evaluate("[...document.images].every(one => one.complete)")
    page.close()
