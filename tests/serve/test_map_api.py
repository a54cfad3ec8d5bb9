"""The map in the HTTP API: tiles, points, regions and colours against numpy."""

from __future__ import annotations

import io

import numpy as np
import pytest
from fastapi.testclient import TestClient
from matplotlib.path import Path as Polygon
from PIL import Image

from indexer.design.page import style
from indexer.mapping.files import map_path, read_map
from indexer.mapping.make import make_map
from indexer.mapping.options import MapOptions
from indexer.serve.app import create_app
from indexer.serve.settings import Settings
from indexer.store.table import EmbeddingStore
from tests.fakes import FakeEncoder
from tests.tables import add_shard, make_table, unit_rows

N = 3_000
SITES = ("north", "south", None)
MAP = "/api/v1/tables/t/map"


def site(i: int) -> str | None:
    return SITES[i % 3 if i % 6 else 0]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    """Three thousand rows in twenty clusters, of two sites and of none."""
    rows = [{"n": i, "site": site(i)} for i in range(N)]
    made = make_table(tmp_path_factory.mktemp("map") / "db", unit_rows(N, 16), rows)
    make_map(made, MapOptions())
    return made


def served(store: EmbeddingStore) -> TestClient:
    app = create_app(Settings(store.uri), load_encoder=lambda _: FakeEncoder())
    return TestClient(app, base_url="http://127.0.0.1:8321", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(store: EmbeddingStore) -> TestClient:
    return served(store)


@pytest.fixture(scope="module")
def square(store: EmbeddingStore) -> dict[str, np.ndarray]:
    """Key → place in the unit square: the file's coordinates in one scale, centred, y downwards."""
    found = read_map(store)
    assert found is not None
    rows = store.vectors(None, ["key"])
    keys = dict(zip(rows.row_ids.tolist(), rows.columns.column("key").to_pylist(), strict=True))
    places = found.places.astype(np.float64)
    low, high = places.min(axis=0), places.max(axis=0)
    unit = 0.5 + (places - (low + high) / 2) / (high - low).max() * 0.94
    unit[:, 1] = 1 - unit[:, 1]
    return {keys[i]: place for i, place in zip(found.row_ids.tolist(), unit, strict=True)}


def drawn(client: TestClient, z: int, x: int, y: int, **query: str) -> np.ndarray:
    answer = client.get(f"{MAP}/tiles/{z}/{x}/{y}", params=query)
    assert answer.headers["content-type"] == "image/png", answer.text
    assert answer.headers["cache-control"].startswith("private")
    return np.asarray(Image.open(io.BytesIO(answer.content)))


@pytest.mark.parametrize("z", [0, 1, 3])
def test_tiles_show_a_cell_where_rows_lie_and_the_more_the_more_opaque(client, square, z):
    cells = np.floor(np.array(list(square.values())) * 128 * 2**z).astype(int)
    right = np.zeros((128 << z, 128 << z))
    np.add.at(right, (cells[:, 1], cells[:, 0]), 1)
    got = np.block([[drawn(client, z, x, y)[::2, ::2, 3].astype(int) for x in range(2**z)] for y in range(2**z)])
    # a place on the edge of a cell may fall to either side in its last digit
    assert ((got > 0) != (right > 0)).sum() <= 4
    sure = (got > 0) & (right > 0)
    opacity = 255 * (0.3 + 0.7 * np.log1p(right[sure]) / np.log1p(right.max()))
    assert (np.abs(got[sure] - opacity) > 1.5).sum() <= 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_colour_is_the_mean_of_its_rows_colours_from_the_style_sheet(client, square, scheme):
    own = style().split("prefers-color-scheme: dark")[scheme == "dark"]
    series = [[int(own.split(f"--series-{i}: #")[1][j : j + 2], 16) for j in (0, 2, 4)] for i in (1, 2, 8)]
    code = {f"k{i}": SITES.index(site(i)) for i in range(N)}
    got = drawn(client, 0, 0, 0, colour="site", scheme=scheme)[::2, ::2]
    sums, counts = np.zeros((128, 128, 3)), np.zeros((128, 128, 1))
    for key, place in square.items():
        x, y = np.floor(place * 128).astype(int)
        sums[y, x] += series[code[key]]
        counts[y, x] += 1
    full = (counts[..., 0] > 0) & (got[..., 3] > 0)
    wrong = np.abs(got[full][:, :3] - sums[full] / counts[full]).max(axis=1) > 1
    assert wrong.sum() <= 4
    legend = client.get(MAP, params={"colour": "site"}).json()["legend"]
    n = {value: sum(c == i for c in code.values()) for i, value in enumerate(SITES)}
    assert legend == {"values": [{"value": v, "rows": n[v]} for v in ("north", "south")], "others": n[None]}


def test_points_are_given_one_by_one_where_they_are_few(client, square):
    everything = client.get(f"{MAP}/points", params={"x0": 0, "y0": 0, "x1": 1, "y1": 1}).json()
    assert everything == {"count": N, "points": []}
    found = client.get(f"{MAP}/points", params={"x0": 0.4, "y0": 0.4, "x1": 0.6, "y1": 0.6}).json()
    right = {key for key, place in square.items() if (np.abs(place - 0.5) <= 0.1).all()}
    assert {key for key, *_ in found["points"]} == right
    assert found["count"] == len(right) > 0
    assert all(np.abs(square[key] - (x, y)).max() < 1e-6 for key, x, y, _ in found["points"])


def test_a_region_holds_the_rows_inside_its_polygon_and_a_search_stays_within(client, square):
    corners = [(0.2, 0.2), (0.9, 0.3), (0.5, 0.5), (0.7, 0.95)]
    region = ";".join(f"{x},{y}" for x, y in corners)
    inside = Polygon(corners).contains_points(list(square.values()))
    right = {key for key, own in zip(square, inside, strict=True) if own}
    asked = [{"region": region, "limit": 1000, "offset": at} for at in (0, 1000, 2000)]
    pages = [client.post(f"{MAP}/region", json=body).json() for body in asked]
    keys = [image["key"] for page in pages for image in page["images"]]
    assert len(keys) == len(set(keys)) == pages[0]["count"] > 100
    assert set(keys) == right
    assert pages[0]["images"][0]["columns"]["n"] == int(keys[0][1:])
    body = {"query": {"positive": ["k5"]}, "limit": 1000, "region": region, "filter": "n < 900"}
    found = client.post("/api/v1/tables/t/query", json=body).json()
    some = {key for key in right if int(key[1:]) < 900}
    assert {hit["key"] for hit in found["hits"]} == some - {"k5"}
    assert found["limits"] == ["--where 'n < 900'", "a region of the map"]
    counted = client.get("/api/v1/tables/t/facets", params={"region": region, "filter": "n < 900"}).json()
    assert counted["rows"] == len(some)


@pytest.mark.parametrize(
    "region", ["", "0,0;1,1", "0,0;1,1;a,b", "nan,0;1,1;0,1", "0,0;1,1;1e9,2", ";".join(["0,0"] * 501), "0,0;1,1;0,1;"]
)
def test_a_region_that_is_no_polygon_is_refused(client, region):
    answer = client.post(f"{MAP}/region", json={"region": region})
    assert answer.status_code == 400
    assert "corners" in answer.json()["detail"]


def test_an_empty_region_finds_nothing_and_a_filter_cannot_leave_it(client):
    nowhere = {"query": {"positive": ["k5"]}, "region": "2,2;3,2;3,3"}
    url = "/api/v1/tables/t/query"
    assert client.post(url, json=nowhere).json()["hits"] == []
    for condition in ("n < 5) OR (n >= 0", "nothing = 1"):
        answer = client.post(url, json={**nowhere, "filter": condition})
        assert answer.status_code == 400
        assert "_rowid IN" not in answer.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("tiles/9/0/0", 400),
        ("tiles/1/2/0", 400),
        ("tiles/0/-1/0", 400),
        ("tiles/0/0/0?colour=n", 400),
        ("tiles/0/0/0?scheme=../x", 422),
        ("points?x0=a&y0=0&x1=1&y1=1", 422),
        ("points?x0=nan&y0=0&x1=1&y1=1", 422),
    ],
)
def test_what_does_not_exist_is_a_problem_and_no_crash(client, path, status):
    assert client.get(f"{MAP}/{path}").status_code == status


def test_a_map_follows_its_table_and_says_that_it_is_older(tmp_path):
    store = make_table(tmp_path / "db", unit_rows(40, 16))
    client = served(store)
    assert client.get(MAP).status_code == 404
    assert "indexer map DB --table t" in client.get("/t/t/map").text
    make_map(store, MapOptions())
    assert (client.get(MAP).json()["rows"], client.get(MAP).json()["stale"]) == (40, "")
    add_shard(store, "second", ["new"], unit_rows(1, 16, seed=5))
    stale = client.get(MAP).json()["stale"]
    assert "1 newer rows are not on it" in stale
    assert stale in client.get("/t/t/map").text
    make_map(store, MapOptions())
    assert (client.get(MAP).json()["rows"], client.get(MAP).json()["stale"]) == (41, "")
    map_path(store).write_bytes(b"PAR1 nonsense")
    assert client.get(MAP).status_code == 503
    assert "is damaged" in client.get("/t/t/map").text
