"""The HTTP API against the library, numpy, and requests that it must refuse."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from indexer.archive.shards import find_shards
from indexer.errors import InputError, RowNotFound
from indexer.groups.make import pool
from indexer.mapping.make import make_map
from indexer.mapping.options import MapOptions
from indexer.pipeline.run import index
from indexer.search.answer import answer as library_answer
from indexer.search.options import SearchOptions
from indexer.search.queries import Query
from indexer.search.searcher import Searcher
from indexer.serve.app import create_app
from indexer.serve.page.shared import LABEL, PAGES
from indexer.serve.settings import Settings, bracketed, read_token
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.types import EmbeddingBatch, EmbeddingRow, Place, Shard, ShardResult
from tests.archives import archive, picture, png
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.pictures import deep, dicom
from tests.tables import make_table, unit_rows

CANARY = "CANARY^PATIENT"
HOSTILE = "<script>alert('x')</script>\"'\u202e" + "é" * 5000


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pictures in three shards, under a folder that bears a name which no answer may tell."""
    root = tmp_path_factory.mktemp("served")
    archive(root)
    found = find_shards([str(root / "shards")])
    index(found.shards, EmbeddingStore.create(str(root / "db"), "t", FakeEncoder().spec), FakeEncoder())
    return root / "db"


@pytest.fixture(scope="module")
def client(database: Path) -> TestClient:
    return served(database)


def served(database: Path, **options: object) -> TestClient:
    app = create_app(Settings(str(database), **options), load_encoder=lambda _: FakeEncoder())  # type: ignore[arg-type]
    return TestClient(app, base_url="http://127.0.0.1:8321", raise_server_exceptions=False)


def asked(client: TestClient, **body: object) -> dict:
    answer = client.post("/api/v1/tables/t/query", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_hits_are_those_of_the_library_with_version_and_index(client: TestClient, database: Path) -> None:
    store = EmbeddingStore.open(str(database))
    right = Searcher(store).by_key(["im3"])[0]
    found = asked(client, query={"positive": ["im3"]})
    assert [(hit["key"], hit["score"]) for hit in found["hits"]] == [(hit.key, hit.score) for hit in right]
    assert (found["version"], found["table"]) == (store.version, "t")
    assert "exact scan" in found["index"]


def test_a_cosine_comes_with_the_share_of_random_pairs_that_are_closer(client: TestClient, database: Path) -> None:
    x = EmbeddingStore.open(str(database)).vectors().vectors.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    pairs = (x @ x.T)[np.triu_indices(len(x), 1)]
    for hit in asked(client, query={"positive": ["im3"]}, limit=29)["hits"]:
        least, most = ((pairs > hit["score"] + step).mean() for step in (1e-9, -1e-9))  # its own pair is one of them
        assert least - 1e-12 <= hit["closer_pairs"] <= most + 1e-12


def test_an_uploaded_picture_finds_its_own_row_first(client: TestClient) -> None:
    data = base64.b64encode(png(7)).decode()
    first = asked(client, query={"image": data}, limit=1)["hits"][0]
    assert first["key"] == "im7"
    assert first["score"] == pytest.approx(1, abs=1e-3)


def test_filter_group_exclusion_threshold_and_page_reach_the_search(client: TestClient) -> None:
    everything = asked(client, query={"positive": ["im3"]}, limit=29)["hits"]
    page = asked(client, query={"positive": ["im3"]}, limit=5, offset=5)["hits"]
    assert [hit["key"] for hit in page] == [hit["key"] for hit in everything[5:10]]
    women = asked(client, query={"positive": ["im3"]}, limit=29, filter="sex = 'F'")["hits"]
    assert {hit["columns"]["sex"] for hit in women} == {"F"}
    assert len(women) == 15
    patients = asked(client, query={"positive": ["im3"]}, limit=29, group_by="patient")["hits"]
    assert len({hit["columns"]["patient"] for hit in patients}) == len(patients) == 8
    assert sum(1 + hit["more"] for hit in patients) == 29
    others = asked(client, query={"positive": ["im3"]}, limit=29, exclude_same="patient")["hits"]
    assert "p0" not in {hit["columns"]["patient"] for hit in others}
    least = everything[4]["score"]
    near = asked(client, query={"positive": ["im3"]}, limit=29, score_threshold=least)["hits"]
    assert [hit["key"] for hit in near] == [hit["key"] for hit in everything[:5]]


def test_vectors_are_given_on_request_and_find_their_row(client: TestClient) -> None:
    hit = asked(client, query={"positive": ["im3"]}, limit=1, with_vector=True)["hits"][0]
    assert asked(client, query={"vector": hit["vector"]}, limit=1)["hits"][0]["key"] == hit["key"]


def test_a_batch_answers_line_by_line_and_names_what_failed(client: TestClient) -> None:
    searches = [{"query": {"positive": ["im1"]}, "limit": 2}, {"query": {"positive": ["none"]}}]
    answer = client.post("/api/v1/tables/t/query/batch", json={"searches": searches})
    first, second = map(json.loads, answer.text.splitlines())
    assert len(first["hits"]) == 2
    assert second["status"] == 404
    assert "no row with key" in second["detail"]


@pytest.mark.parametrize("size", [64, 200])
def test_a_rendered_picture_is_the_stored_one(client: TestClient, size: int) -> None:
    answer = client.get(f"/api/v1/tables/t/images/im7/rendered?size={size}")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"].startswith("private")
    drawn = np.asarray(Image.open(io.BytesIO(answer.content)), np.float64)
    right = np.asarray(Image.fromarray(picture(7)).resize((size, size), Image.Resampling.BICUBIC), np.float64)
    assert np.abs(drawn - right).mean() < 3
    again = client.get(
        f"/api/v1/tables/t/images/im7/rendered?size={size}", headers={"if-none-match": answer.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


def test_facets_count_rows_under_the_filter(client: TestClient) -> None:
    found = client.get("/api/v1/tables/t/facets", params={"filter": "n < 10"}).json()
    assert found["rows"] == 10
    counts = {f["column"]: {v["value"]: v["rows"] for v in f["values"]} for f in found["facets"]}
    assert counts["sex"] == {"F": 5, "M": 5}
    assert counts["patient"] == {"p0": 4, "p1": 4, "p2": 2}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"query": {}}, 400),
        ({"query": {"negative": ["im1"]}}, 400),
        ({"query": {"positive": ["none"]}}, 404),
        ({"query": {"text": "a dog"}}, 422),
        ({"query": {"image": "%%%"}}, 400),
        ({"query": {"image": base64.b64encode(b"GIF89a").decode()}}, 400),
        ({"query": {"vector": [1.0]}}, 400),
        ({"query": {"vector": [0.0] * 16}}, 400),
        ({"query": {"positive": ["im1"]}, "filter": "nothing like SQL"}, 400),
        ({"query": {"positive": ["im1"]}, "group_by": "nocolumn"}, 400),
        ({"query": {"positive": ["im1"]}, "limit": 0}, 422),
        ({"query": {"positive": ["im1"]}, "limt": 3}, 422),
        ({"query": {"positive": ["im1"]}, "offset": -1}, 422),
        ([], 422),
    ],
)
def test_a_wrong_request_gets_a_problem_that_says_what_to_do(client: TestClient, body: object, status: int) -> None:
    answer = client.post("/api/v1/tables/t/query", json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    "path",
    ["/api/v1/tables/none", "/api/v1/tables/..%2f..%2fetc", "/api/v1/tables/t/images/..%2f..%2fetc%2fpasswd",
     "/api/v1/tables/t/images/..%2fx/rendered", "/t/none", "/t/t/probes/..%2f..%2fetc"],
)  # fmt: skip
def test_a_path_leads_to_nothing_but_rows_and_results(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/../../page/assets.py", "/static/..%2fassets.py", "/static/%2e%2e/assets.py",
     "/static/..", "/static/.", "/static/", "/static//etc/passwd", "/static/%2fetc%2fpasswd",
     "/static/search.js/../../assets.py", "/static/..\\assets.py", "/static/search.js%00", "/static/templates"],
)  # fmt: skip
def test_a_static_path_leads_to_nothing_but_the_pages_files(database: Path, path: str) -> None:
    """As a client sends it that does not tidy the path first, as browsers and httpx do."""
    app = create_app(Settings(str(database)), load_encoder=lambda _: FakeEncoder())  # type: ignore[arg-type]
    status, body = raw_get(app, path)
    assert status in (404, 307), path  # a redirect to the path with or without a slash at its end
    assert b"import" not in body
    assert b"root:" not in body


def test_every_file_of_the_pages_is_served_and_a_name_with_a_way_in_it_is_none() -> None:
    from indexer.serve.page import assets

    folder = Path(assets.__file__).parent / "static"
    for file in folder.iterdir():
        assert assets.content(file.name) == file.read_bytes()
    for name in ("../assets.py", "../templates/base.html", str(folder / "search.js"), "./search.js", "..", ""):
        with pytest.raises(RowNotFound):
            assets.content(name)


def raw_get(app, path: str) -> tuple[int, bytes]:
    """Status and body of a request whose path reaches the application as it is written here, unquoted once."""
    sent: list[dict] = []

    async def receive() -> dict:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": unquote(path), "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"host", b"127.0.0.1:8321")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8321),
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example:8321"}, 421),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:8321"}, 200),
    ],
)
def test_only_known_hosts_and_origins_are_answered(client: TestClient, headers: dict[str, str], status: int) -> None:
    answer = client.post("/api/v1/tables/t/query", json={"query": {"positive": ["im1"]}}, headers=headers)
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers
    assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_with_a_token_every_page_and_route_asks_for_it(database: Path) -> None:
    client = served(database, token="a-long/secret+token=")
    schema = served(database).get("/openapi.json").json()
    paths = [(path, method) for path, methods in schema["paths"].items() for method in methods]
    paths += [(path, "get") for path in ("/", "/t/t", "/t/t/failures", "/t/t/runs", "/metrics", "/openapi.json", "/no")]
    for path, method in [*paths, ("/t/t/health", "post")]:
        answer = client.request(method, path.replace("{table}", "t").replace("{key}", "im1"))
        assert (answer.status_code == 401) is (path != "/healthz"), path
    assert client.get("/api/v1/tables", headers={"authorization": "Bearer a-long/secret+tokeN="}).status_code == 401
    assert client.get("/api/v1/tables", headers={"authorization": "Bearer a-long/secret+token="}).status_code == 200
    entered = client.post("/login", data={"token": "a-long/secret+token="}, follow_redirects=False)
    assert entered.status_code == 303
    assert "httponly" in entered.headers["set-cookie"].lower()
    assert client.get("/api/v1/tables").status_code == 200  # by the cookie
    assert client.get("/api/v1/tables", headers={"authorization": "Basic dTpw"}).status_code == 200  # a proxy's login


def test_a_server_that_others_reach_needs_a_token_and_tls(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--token-file"):
        Settings("db", host="0.0.0.0")
    with pytest.raises(InputError, match="--token-file"):
        Settings("db", behind_proxy=True)
    with pytest.raises(InputError, match="TLS"):
        Settings("db", host="0.0.0.0", token="x" * 20)
    file = tmp_path / "token"
    file.write_text("x" * 20)
    file.chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        read_token(file)
    file.chmod(0o600)
    assert read_token(file) == "x" * 20
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_token(tmp_path / "link")


def test_a_request_larger_than_allowed_is_refused_unread(database: Path) -> None:
    client = served(database, upload_bytes=1000)
    answer = client.post("/api/v1/tables/t/query", json={"query": {"image": "A" * 2000}})
    assert answer.status_code == 413


def test_embedding_has_one_limit_and_other_searches_have_none(database: Path) -> None:
    client = served(database, embeds_per_minute=2)
    image = {"query": {"image": base64.b64encode(png(1)).decode()}}
    codes = [client.post("/api/v1/tables/t/query", json=image).status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    assert asked(client, query={"positive": ["im1"]})["hits"]


def test_hostile_metadata_is_text_on_every_page_and_in_every_answer(tmp_path: Path) -> None:
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", FakeEncoder().spec)
    rows = tuple(
        EmbeddingRow(key, Place("s", "m", 0, 0, "png"), f"{i:064x}", {"note": HOSTILE, "sex": HOSTILE})
        for i, key in enumerate([HOSTILE[:99], "a/b/../c", "x"])
    )
    batch = EmbeddingBatch(rows, unit_rows(3, 16), np.ones(3, np.float32))
    with StoreWriter(store) as writer:
        writer.commit([ShardResult(Shard("s", "s", "1"), (batch,), (), 3)])
    client = served(tmp_path / "db")
    for path in ("/t/t", "/t/t/failures", "/t/t/runs", "/t/t/health", "/api/v1/tables/t/sample"):
        answer = client.get(path)
        assert answer.status_code == 200, path
        if answer.headers["content-type"].startswith("text/html"):
            assert "<script>alert" not in answer.text, path
    assert asked(client, query={"positive": [HOSTILE[:99]]})["hits"]
    assert client.get("/api/v1/tables/t/images/a/b/..%2Fc").status_code in (200, 404)


def test_answers_hold_nothing_that_the_table_was_not_given(tmp_path: Path) -> None:
    """A patient's name in the header of an indexed file, and of an uploaded one, is in no byte of any answer."""
    data = dicom(deep(48, 48), PatientName=CANARY, PatientID=CANARY, InstitutionName=CANARY)
    assert CANARY.encode() in data
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "scan.dcm").write_bytes(data)
    (tmp_path / "files" / "cut.dcm").write_bytes(data[:-100])
    for i in range(3):
        (tmp_path / "files" / f"im{i}.png").write_bytes(png(i))
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", FakeEncoder().spec)
    index(find_shards([str(tmp_path / "files")]).shards, store, FakeEncoder())
    make_map(EmbeddingStore.open(str(tmp_path / "db")), MapOptions())
    client = served(tmp_path / "db", labels="finding")
    keys = [row["key"] for row in client.get("/api/v1/tables/t/sample?limit=100").json()["images"]]
    assert "scan.dcm" in keys
    uploads = [data, data[:-100], data[:200]]
    bodies: list[dict] = [{"query": {"image": base64.b64encode(own).decode()}, "with_vector": True} for own in uploads]
    bodies += [{"query": {"positive": ["scan.dcm"]}, "filter": "nothing like SQL"}, {"query": {"positive": ["none"]}}]
    answers = [client.post("/api/v1/tables/t/query", json=body) for body in bodies]
    assert answers[0].status_code == 200
    answers += [client.post("/api/v1/tables/t/embed", json={"image": base64.b64encode(data).decode()})]
    answers += [
        client.post("/api/v1/tables/t/labels/next", json={"query": bodies[0]["query"]}),
        client.post("/t/t/health"),
    ]
    ways = client.get("/openapi.json").json()["paths"]
    fill = {"table": "t", "z": "0", "x": "0", "y": "0", "name": "none"}
    for way, methods in ways.items():
        for key in keys if "{key}" in way and "get" in methods else [""] if "get" in methods else []:
            path = way
            for name, value in {**fill, "key": key}.items():
                path = path.replace("{" + name + "}", value)
            answers.append(client.get(path, params={"x0": 0, "y0": 0, "x1": 1, "y1": 1}))
    answers += [client.get(f"/t/t{page}") for page in ("", *(page for page, _ in (*PAGES, LABEL)))]
    answers += [client.get("/metrics"), client.get("/api/v1/tables/t/images/scan.dcm/rendered?size=1024")]
    assert len(answers) > 40
    assert sum(answer.status_code == 200 for answer in answers) > 30
    for answer in answers:
        assert CANARY.encode() not in answer.content, answer.request.url
        assert CANARY not in str(answer.headers)
        assert b"CANARY" not in answer.content.upper()


def test_a_host_that_is_an_ipv6_address_stands_in_brackets(database: Path) -> None:
    given = Settings(str(database), host="::1")
    assert "[::1]" in given.hosts
    assert bracketed("::1") == bracketed("[::1]") == "[::1]"
    assert bracketed("localhost") == "localhost"
    other = Settings(str(database), host="2001:db8::5", token="x" * 20, behind_proxy=True, names=("FE80::1",))
    app = create_app(other, load_encoder=lambda _: FakeEncoder())  # type: ignore[arg-type]
    client = TestClient(app, base_url="http://localhost")
    for host, status in (("[2001:db8::5]:8321", 200), ("[fe80::1]", 200), ("2001:db8::5", 421), ("[2001:db8::6]", 421)):
        assert client.get("/healthz", headers={"host": host}).status_code == status, host


def test_a_commit_beside_the_server_is_seen_by_the_next_search(tmp_path: Path) -> None:
    vectors = unit_rows(40, 16)
    store = make_table(tmp_path, vectors[:30])
    client = served(Path(store.uri))
    name = client.get("/api/v1/tables").json()[0]["table"]
    assert client.get(f"/api/v1/tables/{name}").json()["rows"] == 30
    from tests.tables import add_shard

    add_shard(EmbeddingStore.open(store.uri), "more", [f"new{i}" for i in range(10)], vectors[30:])
    after = client.get(f"/api/v1/tables/{name}").json()
    assert after["rows"] == 40
    found = client.post(
        f"/api/v1/tables/{name}/query", json={"query": {"vector": vectors[35].astype(float).tolist()}, "limit": 1}
    ).json()
    assert (found["hits"][0]["key"], found["version"]) == ("new5", after["version"])


def test_the_pages_load_nothing_from_elsewhere_and_are_small(client: TestClient) -> None:
    import re

    page = client.get("/t/t").text
    names = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert len(names) >= 3
    size = len(page)
    modules = [f"/static/{name}.js" for name in ("api", "state", "view", "large", "label")]
    for name in [*names, *modules]:
        answer = client.get(name)
        assert answer.status_code == 200
        assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in answer.text
        size += len(answer.content)
    assert size < 150_000


def test_openapi_is_there_and_its_page_which_loads_from_elsewhere_is_not(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/api/v1/tables/{table}/query", "/api/v1/tables/{table}/images/{key}/rendered", "/readyz"} <= set(paths)
    assert client.get("/docs").status_code == 404


def test_probe_results_beside_the_database_are_listed_and_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = [i % 2 for i in range(120)]
    x = rng.standard_normal((120, 16)) + np.array(label)[:, None] * 2
    vectors = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    store = make_table(tmp_path, vectors, [{"patient": f"p{i // 2}", "ill": str(v)} for i, v in enumerate(label)])
    out = Path(store.uri).parent / "found"
    done = call("probes", "linear", store.uri, "--label", "ill", "--group", "patient", "--positive", "1",
                "--replicates", "50", "--out", out)  # fmt: skip
    assert done.code == 0, done.err
    (Path(store.uri).parent / "broken").mkdir()
    (Path(store.uri).parent / "broken" / "result.json").write_text('{"format": 2}')
    client = served(Path(store.uri))
    (facts,) = client.get(f"/api/v1/tables/{store.name}/probes").json()
    result = json.loads((out / "result.json").read_text())
    assert (facts["name"], facts["metric"]) == ("found", "auc_macro")
    assert facts["interval"]["value"] == result["test"]["metrics"]["auc_macro"]["value"]
    assert "found" in client.get(f"/t/{store.name}/probes").text
    report = client.get(f"/t/{store.name}/probes/found")
    assert report.text == (out / "report.html").read_text() if (out / "report.html").exists() else "<svg" in report.text
    assert "script-src" not in report.headers["content-security-policy"]
    assert "default-src 'none'" in report.headers["content-security-policy"]
    for name in ("broken", "none", "%2e%2e", "..%2f..%2fetc"):
        assert client.get(f"/t/{store.name}/probes/{name}").status_code == 404


def test_groups_are_hits_with_the_parts_that_match(tmp_path: Path) -> None:
    rows = [{"case": f"c{i // 5}"} for i in range(40)]
    store = make_table(tmp_path / "db", unit_rows(40, 8), rows)
    client = served(tmp_path / "db")
    refused = client.post("/api/v1/tables/t/query", json={"query": {"groups": ["c1"]}, "by": "case"})
    assert refused.status_code >= 400
    assert "indexer pool" in refused.text
    pool(store, "case")
    found = asked(client, query={"groups": ["c1"]}, by="case", limit=3)
    library = library_answer(Searcher(store), Query(groups=("c1",)), SearchOptions(k=3, by="case")).queries[0].hits
    assert [(hit["group"], hit["score"], hit["more"]) for hit in found["hits"]] == [
        (hit.group, hit.score, 4) for hit in library
    ]
    assert [part["key"] for part in found["hits"][0]["parts"]] == [part.key for part in library[0].parts]
