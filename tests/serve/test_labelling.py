"""Labelling by search: what is shown next, what is written, and the estimate, against scikit-learn, SciPy and csv."""

from __future__ import annotations

import base64
import csv
import io
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

from indexer.errors import InputError
from indexer.serve.app import create_app
from indexer.serve.labelling.estimate import accuracy
from indexer.serve.labelling.order import first_of_classes
from indexer.serve.labelling.probe import fit
from indexer.serve.settings import Settings
from indexer.store.table import EmbeddingStore
from tests.archives import png
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.tables import make_table

ROWS, DIM = 400, 16
CLASSES = ("common", "other", "rare")


def truth(key: str) -> str:
    """Of 400 rows 40 are rare, 160 other, 200 common."""
    n = int(key[1:])
    return "rare" if n % 10 == 0 else "other" if n % 5 in (1, 2) else "common"


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    """Rows of 100 patients, whose vectors tell the class, though not always."""
    rng = np.random.default_rng(0)
    centres = 1.6 * rng.standard_normal((3, DIM))
    x = centres[[CLASSES.index(truth(f"k{i}")) for i in range(ROWS)]] + rng.standard_normal((ROWS, DIM))
    vectors = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    return make_table(tmp_path / "db", vectors, [{"patient": f"p{i // 4}"} for i in range(ROWS)])


def served(store: EmbeddingStore, labels: str | None = "finding") -> TestClient:
    app = create_app(Settings(store.uri, labels=labels), load_encoder=lambda _: FakeEncoder())
    return TestClient(app, base_url="http://127.0.0.1:8321", raise_server_exceptions=False)


API = "/api/v1/tables/t/labels"


def following(client: TestClient, limit: int = 20, **more: object) -> list[tuple[str, str]]:
    answer = client.post(f"{API}/next", json={"limit": limit, "group": "patient", **more})
    assert answer.status_code == 200, answer.text
    return [(image["key"], image["shown"]) for image in answer.json()["images"]]


def write(client: TestClient, shown: list[tuple[str, str]], by: str = "ab", **more: object) -> dict:
    labels = [{"key": key, "label": truth(key), "shown": how} for key, how in shown]
    answer = client.post(API, json={"labels": labels, "by": by, "group": "patient", **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_labels_are_written_beside_who_when_and_how_and_exported_as_csv(store: EmbeddingStore) -> None:
    client = served(store)
    shown = following(client)
    facts = write(client, shown)
    assert facts["classes"] == Counter(truth(key) for key, _ in shown)
    view = EmbeddingStore.open(store.uri)
    rows = {row["key"]: row for b in view.scan(["key", "finding", "finding_by", "finding_at", "finding_shown"])
            for row in b.to_pylist()}  # fmt: skip
    for key, how in shown:
        row = rows[key]
        assert (row["finding"], row["finding_by"], row["finding_shown"]) == (truth(key), "ab", how)
        assert abs(time.time() - np.datetime64(row["finding_at"][:-1], "s").astype(int)) < 600
    assert sum(row["finding"] is not None for row in rows.values()) == len(shown)
    text = client.get(f"{API}.csv").text
    read = list(csv.DictReader(io.StringIO(text)))
    assert {row["key"]: row["finding"] for row in read} == {key: truth(key) for key, _ in shown}
    assert {row["key"]: row["finding_shown"] for row in read} == dict(shown)


def test_an_export_is_read_by_the_labels_command(store: EmbeddingStore, tmp_path: Path) -> None:
    client = served(store)
    write(client, following(client))
    file = tmp_path / "labels.csv"
    file.write_text(client.get(f"{API}.csv").text)
    other = make_table(tmp_path / "other", store.vectors().vectors, [{"patient": "p"}] * ROWS)
    done = call("indexer", "labels", other.uri, file)
    assert done.code == 0, done.err
    other.refresh()
    columns = ["key", "finding", "finding_by", "finding_at", "finding_shown"]
    mine, theirs = (s.vectors("finding IS NOT NULL", columns).columns.to_pylist() for s in (store_now(store), other))
    assert mine == theirs


def store_now(store: EmbeddingStore) -> EmbeddingStore:
    return EmbeddingStore.open(store.uri)


def test_a_batch_is_one_version_and_an_unknown_key_writes_nothing(store: EmbeddingStore) -> None:
    client = served(store)
    shown = following(client)
    write(client, shown[:10])
    before = store_now(store).version
    write(client, shown[10:])
    assert store_now(store).version == before + 1
    labels = [{"key": key, "label": "common", "shown": "search"} for key in ("k1", "none")]
    answer = client.post(API, json={"labels": labels, "by": "ab"})
    assert (answer.status_code, store_now(store).version) == (404, before + 1)


def test_a_label_is_taken_back_and_changed(store: EmbeddingStore) -> None:
    client = served(store)
    first, second = following(client)[:2]
    write(client, [first, second])
    labels = [
        {"key": first[0], "label": None, "shown": first[1]},
        {"key": second[0], "label": "odd", "shown": second[1]},
    ]
    answer = client.post(API, json={"labels": labels, "by": "cd"}).json()
    assert answer["classes"] == {"odd": 1}
    (row,) = csv.DictReader(io.StringIO(client.get(f"{API}.csv").text))
    assert (row["key"], row["finding"], row["finding_by"]) == (second[0], "odd", "cd")


def test_a_tenth_is_drawn_at_random_from_patients_that_search_never_shows(store: EmbeddingStore) -> None:
    client = served(store)
    patients: dict[str, set[str]] = {"search": set(), "random": set()}
    counts: Counter[str] = Counter()
    order = []
    for _ in range(8):
        shown = following(client)
        write(client, shown)
        for key, how in shown:
            counts[how] += 1
            patients[how].add(f"p{int(key[1:]) // 4}")
            order += [key] if how == "random" else []
    assert counts == {"search": 144, "random": 16}
    assert not patients["search"] & patients["random"]
    again = served(make_table(Path(store.uri).parent / "again", store.vectors().vectors,
                              [{"patient": f"p{i // 4}"} for i in range(ROWS)]))  # fmt: skip
    drawn = [key for key, how in following(again, 100) if how == "random"]  # nothing was labelled or searched there
    assert set(drawn) <= set(order)
    assert len(drawn) == 10


def test_the_estimate_is_that_of_a_probe_which_saw_no_image_of_those_patients(store: EmbeddingStore) -> None:
    client = served(store)
    for _ in range(10):
        facts = write(client, following(client))
    rows = store_now(store).vectors("finding IS NOT NULL", ["key", "finding", "patient", "finding_shown"])
    facts_of = rows.columns.to_pylist()
    x = rows.vectors.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = np.array([row["finding"] for row in facts_of])
    random = np.array([row["finding_shown"] == "random" for row in facts_of])
    centred = x - x[~random].mean(0)
    centred /= np.sqrt((centred[~random] ** 2).sum(1).mean())
    reference = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(centred[~random], y[~random])
    right = reference.predict(centred[random]) == y[random]
    assert facts["accuracy"]["images"] == random.sum() == facts["random"]
    assert facts["accuracy"]["value"] == pytest.approx(right.mean())
    assert facts["accuracy"]["low"] < right.mean() < facts["accuracy"]["high"] or right.all()
    name, most = Counter(y[random]).most_common(1)[0]
    assert facts["always"]["accuracy"] == pytest.approx(most / random.sum()), name
    assert facts["accuracy"]["groups"] == len({r["patient"] for r, own in zip(facts_of, random, strict=True) if own})


def test_the_answer_names_what_orders_the_images(store: EmbeddingStore) -> None:
    client = served(store)
    assert client.post(f"{API}/next", json={"group": "patient"}).json()["ordered_by"] == "lot"
    for _ in range(3):
        write(client, following(client))
    assert client.post(f"{API}/next", json={"group": "patient"}).json()["ordered_by"] == "probe"


def test_the_rarest_class_comes_first_with_the_most_doubtful_between(store: EmbeddingStore) -> None:
    client = served(store)
    while not (facts := write(client, following(client)))["learnt"] or len(facts["learnt"]) < 3:
        pass
    rows = store_now(store).vectors(None, ["key", "finding", "patient"])
    facts_of = rows.columns.to_pylist()
    x = rows.vectors.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    reserved = _reserved(store, facts_of)
    label = np.array([row["finding"] or "" for row in facts_of])
    training = (label != "") & ~reserved
    centred = x - x[training].mean(0)
    centred /= np.sqrt((centred[training] ** 2).sum(1).mean())
    reference = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(centred[training], label[training])
    p = reference.predict_proba(centred)
    free = np.flatnonzero((label == "") & ~reserved)
    rarest = min(facts["classes"], key=facts["classes"].get)
    first = free[np.argsort(-p[free, list(reference.classes_).index(rarest)])]
    best = np.sort(p[free], axis=1)
    doubt = free[np.argsort(best[:, -1] - best[:, -2])]
    expected, seen = [], set()
    for spots in zip(*(iter(first), iter(doubt)), strict=True):
        for own in (facts_of[spot] for spot in spots):
            if own["key"] not in expected and own["patient"] not in seen:
                seen.add(own["patient"])
                expected.append(own["key"])
    shown = [key for key, how in following(client, 10) if how == "search"]
    # the server's probe is at its minimum to 1 %: neighbours in the order may change places
    assert set(shown[:6]) <= set(expected[:10])
    assert shown[0] == facts_of[first[0]]["key"]
    assert facts_of[doubt[0]]["key"] in shown or facts_of[doubt[0]]["patient"] == facts_of[first[0]]["patient"]
    assert sum(truth(key) == rarest for key in shown) >= 4  # a tenth of all are rare


def _reserved(store: EmbeddingStore, rows: list[dict]) -> np.ndarray:
    """Rows that the server draws at random: seen from outside, those of a fresh table that only random ones show."""
    fresh = make_table(
        Path(store.uri).parent / "fresh", store.vectors().vectors, [{"patient": r["patient"]} for r in rows]
    )
    client = served(fresh)
    patients: set[str] = set()
    skipped: list[str] = []
    while page := following(client, 100, skipped=skipped):
        skipped += [key for key, _ in page]
        patients |= {f"p{int(key[1:]) // 4}" for key, how in page if how == "random"}
    return np.array([row["patient"] in patients for row in rows])


def test_every_image_is_shown_once_and_then_none(store: EmbeddingStore) -> None:
    client = served(store)
    skipped: list[str] = []
    while page := following(client, 100, skipped=skipped):
        skipped += [key for key, _ in page]
    assert sorted(skipped) == sorted(f"k{i}" for i in range(ROWS))


def test_a_search_orders_in_place_of_the_probe(store: EmbeddingStore) -> None:
    client = served(store)
    shown = [key for key, how in following(client, query={"positive": ["k0"]}) if how == "search"]
    hits = client.post("/api/v1/tables/t/query", json={"query": {"positive": ["k0"]}, "limit": 200}).json()["hits"]
    near = [hit["key"] for hit in hits]
    places = [near.index(key) for key in shown]
    assert places == sorted(places)
    assert places[-1] < 40


def test_a_search_goes_on_behind_all_that_was_skipped(store: EmbeddingStore) -> None:
    client = served(store)
    skipped: list[str] = []
    while page := following(client, 20, query={"positive": ["k0"]}, skipped=skipped):
        skipped += [key for key, _ in page]
    reserved = _reserved(store, [{"patient": f"p{i // 4}"} for i in range(ROWS)])
    assert {f"k{i}" for i in np.flatnonzero(~reserved)} - {"k0"} <= set(skipped)


def test_a_skipped_image_that_was_deleted_since_stops_nothing(store: EmbeddingStore) -> None:
    client = served(store)
    shown = [key for key, _ in following(client)]
    done = call("indexer", "delete", store.uri, "--where", f"key = '{shown[0]}'", "--yes")
    assert done.code == 0, done.err
    after = [key for key, _ in following(client, skipped=shown)]
    assert len(after) == 20
    assert not set(after) & set(shown)


def test_labels_are_written_while_another_request_embeds(store: EmbeddingStore) -> None:
    client = served(store)
    shown = following(client)
    begun, go_on = threading.Event(), threading.Event()

    class Slow(FakeEncoder):
        def embed(self, pictures):
            begun.set()
            assert go_on.wait(60)
            return super().embed(pictures)

    slow = Slow()
    slow.spec = store.spec
    app = create_app(Settings(store.uri, labels="finding"), load_encoder=lambda _: slow)
    both = TestClient(app, base_url="http://127.0.0.1:8321", raise_server_exceptions=False)
    body = {"query": {"image": base64.b64encode(png(1)).decode()}, "limit": 5, "group": "patient"}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(both.post, f"{API}/next", json=body)
        assert begun.wait(60)
        try:
            write(both, shown)
        finally:
            go_on.set()
        answer = asked.result()
    assert answer.status_code == 200, answer.text
    assert not {one["key"] for one in answer.json()["images"]} & {key for key, _ in shown}


def test_a_probe_of_many_labels_is_fitted_on_as_many_of_each_class_and_all_of_a_rare_one() -> None:
    codes = np.repeat([-1, 0, 1, 2], [50, 900, 90, 10])
    order = np.random.default_rng(0).permutation(len(codes))
    allowed = np.arange(len(codes)) % 10 != 0
    chosen = first_of_classes(codes, allowed, order, 200)
    assert allowed[chosen].all()
    counts = np.bincount(codes[chosen])
    assert counts.tolist() == [200 - 81 - 9, 81, 9]
    rank = np.argsort(order)
    for code in range(3):
        own = np.flatnonzero((codes == code) & allowed)
        assert set(chosen[codes[chosen] == code]) == set(own[np.argsort(rank[own])][: counts[code]])
    everything = first_of_classes(codes, allowed, order, 1000)
    assert everything.tolist() == np.flatnonzero(allowed & (codes >= 0)).tolist()


def test_a_lock_held_by_another_writer_is_a_problem_and_the_labels_can_be_sent_again(store: EmbeddingStore) -> None:
    client = served(store)
    shown = following(client)
    held = f"""import sys
from indexer.store.table import EmbeddingStore
with EmbeddingStore.open({store.uri!r}).lock():
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        labels = [{"key": key, "label": truth(key), "shown": how} for key, how in shown]
        answer = client.post(API, json={"labels": labels, "by": "ab", "group": "patient"})
        assert answer.status_code == 423
        assert answer.headers["content-type"] == "application/problem+json"
        assert str(other.pid) in answer.json()["detail"]
        assert client.get(API).json()["classes"] == {}
        other.communicate()
    assert sum(write(client, shown)["classes"].values()) == len(shown)


def test_labels_of_another_writer_are_seen_and_not_written_over(store: EmbeddingStore, tmp_path: Path) -> None:
    client = served(store)
    write(client, following(client)[:4])
    file = tmp_path / "own.csv"
    taken = [key for key, _ in following(client, 5)]
    file.write_text("key,finding\n" + "".join(f"{key},common\n" for key in taken))
    assert call("indexer", "labels", store.uri, file).code == 0
    assert sum(client.get(API).json()["classes"].values()) == 9
    assert not {key for key, _ in following(client, 100)} & set(taken)
    answer = client.post(API, json={"labels": [{"key": taken[0], "label": "rare", "shown": "search"}], "by": "ab"})
    assert answer.status_code == 400
    assert "indexer labels" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("label", "more", "status"),
    [
        ({"label": "N/A"}, {}, 400), ({"label": " "}, {}, 400), ({"label": "a\nb"}, {}, 400),
        ({"label": "x" * 101}, {}, 422), ({"shown": "other"}, {}, 422), ({"key": ""}, {}, 422),
        ({}, {"by": " "}, 422), ({}, {"by": ""}, 422), ({}, {"group": "none"}, 400), ({}, {"labels": []}, 422),
    ],
)  # fmt: skip
def test_a_wrong_label_is_refused_and_nothing_is_written(
    store: EmbeddingStore, label: dict, more: dict, status: int
) -> None:
    client = served(store)
    one = {"key": "k1", "label": "common", "shown": "search", **label}
    answer = client.post(API, json={"labels": [one], "by": "ab", **more})
    assert answer.status_code == status, answer.text
    assert store_now(store).version == store.version


def test_only_an_image_that_is_reserved_counts_as_random_and_nine_classes_have_keys(store: EmbeddingStore) -> None:
    client = served(store)
    key = next(key for key, how in following(client) if how == "search")
    one = {"key": key, "label": "common", "shown": "random"}
    assert client.post(API, json={"labels": [one], "by": "ab", "group": "patient"}).status_code == 400
    many = [{"key": f"k{i}", "label": f"class {i}", "shown": "search"} for i in range(10)]
    assert client.post(API, json={"labels": many, "by": "ab"}).status_code == 400
    assert client.post(API, json={"labels": many[:9], "by": "ab"}).status_code == 200


def test_a_server_without_labels_reads_only_and_says_how_to_label(store: EmbeddingStore) -> None:
    client = served(store, labels=None)
    body = {"labels": [{"key": "k1", "label": "a", "shown": "search"}], "by": "ab"}
    answers = [client.get(API), client.post(API, json=body), client.post(f"{API}/next", json={}),
               client.get(f"{API}.csv"), client.get("/t/t/label")]  # fmt: skip
    for answer in answers:
        assert answer.status_code == 403
        assert "--labels" in answer.json()["detail"]
    assert ">Label<" not in client.get("/t/t").text
    assert ">Label<" in served(store).get("/t/t").text
    assert store_now(store).version == store.version


def test_a_column_that_cannot_hold_labels_is_refused(store: EmbeddingStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--labels vector"):
        served(store, labels="vector")
    file = tmp_path / "own.csv"
    file.write_text("key,weight\nk1,1.5\n")
    assert call("indexer", "labels", store.uri, file).code == 0
    answer = served(store, labels="weight").get(API)
    assert answer.status_code == 400
    assert "--labels NAME" in answer.json()["detail"]


def test_a_table_without_rows_has_nothing_to_label(tmp_path: Path) -> None:
    client = served(make_table(tmp_path, np.empty((0, 4), np.float16)))
    assert client.post(f"{API}/next", json={}).json()["images"] == []
    assert client.get(API).json()["waiting"] == 0


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (5, 5), (7, 10), (1, 40), (39, 40), (60, 100)])
def test_of_independent_images_the_interval_is_clopper_and_pearsons(hits: int, n: int) -> None:
    found = accuracy(np.arange(n) < hits, np.arange(n))
    right = binomtest(hits, n).proportion_ci(0.95, "exact")
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((hits / n, right.low, right.high))


def test_of_clustered_images_the_interval_covers_where_that_of_independent_ones_does_not() -> None:
    rng = np.random.default_rng(1)
    covered = naive = 0
    for _ in range(400):
        own = rng.beta(2, 1, 30)  # of each patient; 2/3 in the mean
        groups = np.repeat(np.arange(30), 8)
        right = rng.random(240) < own[groups]
        found = accuracy(right, groups)
        plain = binomtest(int(right.sum()), 240).proportion_ci(0.95, "exact")
        assert found is not None
        covered += found.low <= 2 / 3 <= found.high
        naive += plain.low <= 2 / 3 <= plain.high
    assert covered >= 372  # 93 %
    assert naive < 350


def test_one_patient_gives_no_interval() -> None:
    found = accuracy(np.array([True, False]), np.zeros(2, np.int64))
    assert found is not None
    assert (found.low, found.high) == (None, None)


def test_the_probe_has_scikit_learns_minimum_and_is_quick() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 2_000)
    x = (rng.standard_normal((3, 512))[y] * 0.2 + rng.standard_normal((2_000, 512))).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    start = time.process_time()
    probe = fit(x, y)
    seconds = time.process_time() - start
    assert probe is not None
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    centred /= np.sqrt((centred**2).sum(1).mean())
    reference = LogisticRegression(C=1.0, tol=1e-6, max_iter=5000).fit(centred, y)
    assert probe.probabilities(x) == pytest.approx(reference.predict_proba(centred), abs=0.01)
    assert seconds < 1  # about 0.05 s of one core; a busy machine may take longer
