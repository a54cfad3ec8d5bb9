"""Requests that nobody should send: made from the API's own schema, fuzzed uploads, hostile metadata, many at once."""

from __future__ import annotations

import base64
import json
import re
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from indexer.archive.shards import find_shards
from indexer.mapping.make import make_map
from indexer.mapping.options import MapOptions
from indexer.pipeline.run import index
from indexer.serve.app import create_app
from indexer.serve.settings import Settings
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.types import EmbeddingBatch, EmbeddingRow, Place, Shard, ShardResult
from tests.archives import archive, png
from tests.fakes import FakeEncoder
from tests.fuzz.targets import TARGETS
from tests.tables import make_table, unit_rows

EXAMPLES = 25  # requests of each operation; `make test-slow` sends more
PICTURES = ("jpeg", "png", "dicom", "tiff", "headers")
UPLOADS = 12  # of each kind
HOSTILE = [
    "<script>alert('x')</script>", "\"'><img src=x onerror=alert(1)>", "\u202e\u2066right to left\u2069", "é" * 10_000,
    "{{ 7*7 }}{% raw %}", "a\nb\r\tc", "../../etc/passwd", "'; DROP TABLE t; --", "\\", "\u0000null",
]  # fmt: skip
PAGES = (
    "", "/map", "/duplicates?compute=true&threshold=0.1&group=sex", "/probes", "/compare", "/failures", "/runs",
    "/health", "/label",
)  # fmt: skip
ODD: list[dict[str, object]] = [
    {"offset": 10**30}, {"offset": -1}, {"bin": "x", "true": "é" * 2000}, {"cluster": 2**70}, {"cluster": "é"},
    {"file": "../../etc/passwd"}, {"file": "\0"}, {"threshold": "nan", "compute": "true"}, {"threshold": 1e300},
    {"across": "splits", "compute": "true"}, {"group": "none", "compute": "true"},
    {"split": HOSTILE[0], "compute": "true"},
]  # fmt: skip


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    archive(root, shards=2, images=10)
    store = EmbeddingStore.create(str(root / "db"), "t", FakeEncoder().spec)
    index(find_shards([str(root / "shards")]).shards, store, FakeEncoder())
    make_map(EmbeddingStore.open(str(root / "db")), MapOptions())
    return root / "db"


@pytest.fixture(scope="module")
def client(database: Path) -> TestClient:
    return served(database, labels="finding", embeds_per_minute=1_000_000)


def served(database: Path, **options: object) -> TestClient:
    app = create_app(Settings(str(database), **options), load_encoder=lambda _: FakeEncoder())  # type: ignore[arg-type]
    return TestClient(app, base_url="http://127.0.0.1:8321", raise_server_exceptions=False)


def operations(client: TestClient) -> list:
    """Of the schema that the server itself gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
        return [found.ok() for found in schema.get_all_operations()]


def send(client: TestClient, operation, case, known: bool):
    """A case as a request; with `known` it names a table, an image and a query that exist, so that the rest is read."""
    names = {**(case.path_parameters or {}), **({"table": "t", "key": "im3"} if known else {})}
    path = re.sub(r"\{(\w+)(?::path)?\}", lambda m: quote(str(names.get(m[1], "x")), safe="") or "x", operation.path)
    body = case.body if isinstance(case.body, dict | list) else None
    if known and isinstance(body, dict) and isinstance(body.get("query"), dict):
        body = {**body, "query": {"positive": ["im3"]}}
    query = {k: v for k, v in (case.query or {}).items() if v is not None}
    text = None if body is None else json.dumps(body).encode()
    return client.request(operation.method.upper(), path, params=query, content=text,
                          headers={"content-type": "application/json"})  # fmt: skip


def check(answer, operation) -> None:
    """No 500, an error is a problem with a sentence, and what is answered is in the schema."""
    told = (operation.label, answer.status_code, answer.text[:500])
    assert answer.status_code != 500, told
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json", told
        assert answer.json()["detail"], told
        assert "Traceback" not in answer.text, told
    else:
        assert str(answer.status_code) in operation.definition.raw["responses"] or answer.status_code == 304, told


def hammer(client: TestClient, examples: int, number: int) -> Counter[int]:
    """Status → how often it was answered."""
    seen: Counter[int] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for operation in operations(client):
            requests_of(operation, client, seen, examples, number)()
    return seen


def requests_of(operation, client: TestClient, seen: Counter[int], examples: int, number: int):
    @seed(number)
    @settings(
        max_examples=examples, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(), known=st.booleans())
    def one(case, known) -> None:
        answer = send(client, operation, case, known)
        check(answer, operation)
        seen[answer.status_code] += 1

    return one


def test_no_request_that_the_schema_allows_is_a_bug_of_the_server(client: TestClient) -> None:
    assert len(operations(client)) > 20
    seen = hammer(client, EXAMPLES, 1)
    assert seen[200] > EXAMPLES
    assert seen[422] + seen[400] + seen[404] > EXAMPLES


def test_a_page_with_an_odd_address_is_no_bug_of_the_server(client: TestClient) -> None:
    for page in (*PAGES, "/probes/none/images", "/probes/none", "/compare/none"):
        for query in ODD:
            answer = client.get(f"/t/t{page}", params=query)
            assert answer.status_code in (200, 404, 422), (page, query, answer.text[:300])
            assert "<script>alert" not in answer.text, (page, query)


@pytest.mark.slow
def test_no_request_of_many_that_the_schema_allows_is_a_bug_of_the_server(client: TestClient) -> None:
    hammer(client, 40 * EXAMPLES, 2)


@pytest.mark.parametrize("name", PICTURES)
def test_a_fuzzed_upload_is_an_answer_or_a_refusal(client: TestClient, name: str) -> None:
    for data in TARGETS[name].inputs(UPLOADS, 5):
        text = base64.b64encode(data).decode()
        for path, body in (("query", {"query": {"image": text}, "limit": 3}), ("embed", {"image": text})):
            answer = client.post(f"/api/v1/tables/t/{path}", json=body)
            assert answer.status_code == 200 or 400 <= answer.status_code < 500, (name, answer.text[:300])
    assert client.get("/healthz").status_code == 200


def test_hostile_metadata_are_text_on_every_page_and_whole_in_every_answer(tmp_path: Path) -> None:
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", FakeEncoder().spec)
    keys = [f"k{i}" for i in range(len(HOSTILE))] + ["<script>alert(1)</script>", "a/b/../c", "\u202ekey", "k?#%&+ ;"]
    values = [*HOSTILE, "", "x", "y", "z"]
    rows = tuple(
        EmbeddingRow(key, Place("s", "m", 0, 0, "png"), f"{i:064x}", {"note": value, "sex": value})
        for i, (key, value) in enumerate(zip(keys, values, strict=True))
    )
    batch = EmbeddingBatch(rows, unit_rows(len(keys), 16), np.ones(len(keys), np.float32))
    with StoreWriter(store) as writer:
        writer.commit([ShardResult(Shard("s", "s", "1"), (batch,), (), len(keys))])
    make_map(EmbeddingStore.open(str(tmp_path / "db")), MapOptions())
    client = served(tmp_path / "db", labels="finding")
    for page in PAGES:
        answer = client.get(f"/t/t{page}")
        assert answer.status_code == 200, page
        for wrong in ("<script>alert", "<img src=x", 'onerror=alert(1)>"'):
            assert wrong not in answer.text, page
    for key, value in zip(keys, values, strict=True):
        found = client.post("/api/v1/tables/t/query", json={"query": {"positive": [key]}, "limit": 20})
        assert found.status_code == 200, (key, found.text)
        assert {hit["key"] for hit in found.json()["hits"]} == set(keys) - {key}
        image = client.get(f"/api/v1/tables/t/images/{quote(key, safe='')}")
        assert image.status_code == 200, (key, image.text)
        assert image.json()["columns"]["note"] == value
    counts = {one["column"]: one["values"] for one in client.get("/api/v1/tables/t/facets").json()["facets"]}
    assert {one["value"] for one in counts["sex"]} == set(values)


def test_twenty_users_at_once_get_what_each_would_get_alone(client: TestClient) -> None:
    def ask(user: int) -> list[object]:
        key = f"im{user}"
        found = client.post("/api/v1/tables/t/query", json={"query": {"positive": [key]}, "limit": 19})
        own = {"query": {"image": base64.b64encode(png(user)).decode()}, "limit": 1}
        first = client.post("/api/v1/tables/t/query", json=own)
        drawn = client.get(f"/api/v1/tables/t/images/{key}/rendered?size=64")
        facets = client.get("/api/v1/tables/t/facets", params={"filter": f"n <> {user}"})
        codes = [answer.status_code for answer in (found, first, drawn, facets)]
        hits = [(hit["key"], hit["score"]) for hit in found.json()["hits"]]
        return [codes, hits, first.json()["hits"][0]["key"], drawn.content, facets.json()["rows"]]

    alone = [ask(user) for user in range(20)]
    with ThreadPoolExecutor(20) as pool:
        together = list(pool.map(ask, range(20)))
    assert together == alone
    assert all(codes == [200] * 4 for codes, *_ in alone)
    assert [first for _, _, first, *_ in alone] == [f"im{user}" for user in range(20)]


ODD_FACTS = [None, True, -1.5, "", "<script>", [], [None], {"a": {}}, 10**400, float("nan")]


@pytest.mark.parametrize("place", [(), ("name",), ("status",), ("seconds",), ("report",), ("report", "images")])
def test_a_run_record_may_hold_anything(tmp_path: Path, place: tuple[str, ...]) -> None:
    make_table(tmp_path, unit_rows(4, 8))
    asking = served(tmp_path)
    record = tmp_path / "t.runs" / "20260102T030405Z-x" / "manifest.json"
    record.parent.mkdir(parents=True)
    for odd in ODD_FACTS:
        facts: dict = {"name": "x", "status": "done", "seconds": 2.0, "report": {"images": 3, "failed": 1}}
        target = facts
        for name in place[:-1]:
            target = target[name]
        if place:
            target[place[-1]] = odd
        record.write_text(json.dumps(facts if place else {"else": odd}))
        page = asking.get("/t/t/runs")
        assert page.status_code == 200, (place, odd)
        assert "2026-01-02 03:04:05 UTC" in page.text
        assert "<script>" not in page.text.partition("Newest first")[2].partition("</table>")[0]
        assert asking.get("/api/v1/tables/t/runs").status_code == 200
