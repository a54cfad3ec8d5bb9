"""Search against exact search in numpy, through the Searcher."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from indexer.ann import index as ann_index
from indexer.ann.goal import Goal
from indexer.errors import BadFilter, EncoderMismatch, InputError, RowNotFound
from indexer.search.answer import answer
from indexer.search.blend import Blend
from indexer.search.images import QueryImage
from indexer.search.index_build import build_index
from indexer.search.options import SearchOptions
from indexer.search.queries import Query, load_vectors
from indexer.search.searcher import Searcher
from indexer.store.labelling.join import add_columns
from indexer.store.table import EmbeddingStore
from tests.fakes import FakeEncoder
from tests.tables import add_shard, cosines, keys_of, make_table, nearest_keys, unit_rows

N, DIM = 1500, 24
VECTORS = unit_rows(N, DIM)
KEYS = [f"k{i}" for i in range(N)]
METADATA = [{"patient": f"P{i // 6}", "site": i % 50, "sex": "FM"[i % 2]} for i in range(N)]
QUERIES = unit_rows(40, DIM, seed=5).astype(np.float32) * 3  # raw vectors need not be unit


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    store = make_table(tmp_path_factory.mktemp("built"), VECTORS, METADATA)
    build_index(store, Goal(recall=0.995, kind="ivf-rabitq"))
    return store


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    return make_table(tmp_path_factory.mktemp("plain"), VECTORS, METADATA)


@pytest.fixture(params=["plain", "built", "built, nothing scanned because it is small", "streamed"])
def searcher(request: pytest.FixtureRequest, plain: EmbeddingStore, built: EmbeddingStore, monkeypatch) -> Searcher:
    """Each way an answer is found: held rows, the index, the index with a selector, the table streamed."""
    if request.param == "streamed":
        return Searcher(plain, memory_bytes=0)
    if "small" in request.param:
        monkeypatch.setattr(ann_index, "EXACT_SCAN_ROWS", 0)
    return Searcher(plain if request.param == "plain" else built)


def test_hits_are_the_exact_nearest_rows_with_their_cosine(searcher: Searcher) -> None:
    expected = nearest_keys(QUERIES, KEYS, VECTORS, 10)
    scores = cosines(QUERIES, VECTORS)
    right = 0
    for row, hits in enumerate(searcher.by_vector(QUERIES)):
        assert [hit.rank for hit in hits] == list(range(1, 11))
        right += len(set(keys_of(hits)) & set(expected[row]))
        for hit in hits:
            assert hit.score == pytest.approx(scores[row, int(hit.key[1:])], abs=1e-11)
    assert right >= 0.98 * 400


def test_many_queries_at_once_find_what_each_finds_alone(searcher: Searcher) -> None:
    queries = np.concatenate([QUERIES, QUERIES[::-1]])  # past the count where blocks are multiplied instead of scanned
    together = searcher.by_vector(queries)
    alone = [searcher.by_vector(q[None])[0] for q in queries]
    assert [keys_of(h) for h in together] == [keys_of(h) for h in alone]


def test_a_filter_of_two_percent_still_gives_k_rows(searcher: Searcher) -> None:
    matching = [i for i in range(N) if i % 50 == 7]
    expected = nearest_keys(QUERIES, [KEYS[i] for i in matching], VECTORS[matching], 10)
    found = searcher.by_vector(QUERIES, SearchOptions(where="site = 7", columns=("site",)))
    assert [keys_of(h) for h in found] == expected
    assert {hit.columns["site"] for hits in found for hit in hits} == {7}


def test_a_filter_that_lets_half_through_finds_the_nearest_of_that_half(searcher: Searcher) -> None:
    expected = nearest_keys(QUERIES, KEYS[::2], VECTORS[::2], 10)
    found = searcher.by_vector(QUERIES, SearchOptions(where="sex = 'F'"))
    right = sum(len(set(keys_of(h)) & set(e)) for h, e in zip(found, expected, strict=True))
    assert right >= 0.98 * 400
    assert all(int(hit.key[1:]) % 2 == 0 for hits in found for hit in hits)


def test_a_filter_that_no_row_passes_gives_no_hits(searcher: Searcher) -> None:
    assert searcher.by_vector(QUERIES[:2], SearchOptions(where="site = 99")) == [[], []]


def test_a_filter_the_table_cannot_evaluate_is_named(searcher: Searcher) -> None:
    with pytest.raises(BadFilter, match="nosuch"):
        searcher.by_vector(QUERIES[:1], SearchOptions(where="nosuch = 1"))


def test_k_larger_than_the_table_gives_every_row_once(searcher: Searcher) -> None:
    (hits,) = searcher.by_vector(QUERIES[:1], SearchOptions(k=N + 500))
    assert sorted(keys_of(hits)) == sorted(KEYS)


def test_pages_together_are_one_long_answer(searcher: Searcher) -> None:
    (whole,) = searcher.by_vector(QUERIES[:1], SearchOptions(k=60))
    pages = [searcher.by_vector(QUERIES[:1], SearchOptions(k=20, offset=o))[0] for o in (0, 20, 40)]
    assert [hit.rank for page in pages for hit in page] == list(range(1, 61))
    found = [key for page in pages for key in keys_of(page)]
    assert len(set(found)) == 60
    assert len(set(found) & set(keys_of(whole))) >= 57


def test_min_score_cuts_the_tail(searcher: Searcher) -> None:
    scores = np.sort(cosines(QUERIES[:1], VECTORS))[0, ::-1]
    bar = float(scores[4] + scores[5]) / 2
    (hits,) = searcher.by_vector(QUERIES[:1], SearchOptions(min_score=bar))
    assert len(hits) == 5


def test_a_stored_key_finds_its_neighbours_but_not_itself(searcher: Searcher) -> None:
    others = [i for i in range(N) if i != 17]
    expected = nearest_keys(VECTORS[17:18].astype(np.float32), [KEYS[i] for i in others], VECTORS[others], 5)
    assert [keys_of(h) for h in searcher.by_key(["k17"], SearchOptions(k=5))] == expected


def test_exclude_same_leaves_out_the_querys_own_patient_only(searcher: Searcher) -> None:
    for key in ("k17", "k18"):  # the last and the first image of neighbouring patients
        own = int(key[1:]) // 6
        others = [i for i in range(N) if i // 6 != own]
        query = VECTORS[int(key[1:])][None].astype(np.float32)
        expected = nearest_keys(query, [KEYS[i] for i in others], VECTORS[others], 10)
        assert [keys_of(h) for h in searcher.by_key([key], SearchOptions(exclude_same="patient"))] == expected


def test_exclude_same_needs_a_query_with_such_a_column(searcher: Searcher) -> None:
    with pytest.raises(InputError, match="--where"):
        searcher.by_vector(QUERIES[:1], SearchOptions(exclude_same="patient"))
    with pytest.raises(InputError, match="no such column"):
        searcher.by_key(["k1"], SearchOptions(exclude_same="nosuch"))


def test_an_unknown_key_is_named(searcher: Searcher) -> None:
    with pytest.raises(RowNotFound, match="'nosuch'"):
        searcher.by_key(["k1", "nosuch"])


@pytest.mark.parametrize("bad", [np.zeros((1, DIM)), np.full((1, DIM), np.nan), np.full((1, DIM), np.inf)])
def test_a_query_without_direction_is_refused(searcher: Searcher, bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="no direction"):
        searcher.by_vector(bad.astype(np.float32))


def test_a_query_of_any_length_finds_what_its_direction_finds(searcher: Searcher) -> None:
    """Also where the square of its length is no number."""
    plain = QUERIES[:1].astype(np.float64)
    wanted = [keys_of(hits) for hits in searcher.by_vector(plain)]
    for length in (1e250, 1e-250, 1e100):
        assert [keys_of(hits) for hits in searcher.by_vector(np.concatenate([plain * length, plain]))] == 2 * wanted


def test_queries_of_another_dimension_are_refused(searcher: Searcher) -> None:
    with pytest.raises(InputError, match="needs"):
        searcher.by_vector(np.ones((1, DIM + 1), np.float32))


def test_no_queries_give_no_answers(searcher: Searcher) -> None:
    assert searcher.by_vector(np.empty((0, DIM), np.float32)) == []


def test_rows_of_equal_score_are_ordered_the_same_on_every_page(tmp_path: Path) -> None:
    store = make_table(tmp_path, np.repeat(unit_rows(3, 8), 40, axis=0))
    query = unit_rows(1, 8, seed=3).astype(np.float32)
    searcher = Searcher(store)
    pages = [keys_of(searcher.by_vector(query, SearchOptions(k=7, offset=o))[0]) for o in range(0, 120, 7)]
    assert sorted(key for page in pages for key in page) == sorted(f"k{i}" for i in range(120))


def test_an_empty_table_answers_with_no_hits(tmp_path: Path) -> None:
    store = make_table(tmp_path, np.empty((0, 8), np.float16))
    assert Searcher(store).by_vector(np.ones((2, 8), np.float32)) == [[], []]
    report = build_index(store, Goal())
    assert report.manifest.rows == 0
    assert Searcher(store).by_vector(np.ones((2, 8), np.float32)) == [[], []]


def test_a_table_of_one_row_is_indexed_and_searched(tmp_path: Path) -> None:
    store = make_table(tmp_path, unit_rows(1, 8))
    build_index(store, Goal())
    (hits,) = Searcher(store).by_vector(unit_rows(1, 8).astype(np.float32))
    assert keys_of(hits) == ["k0"]
    assert hits[0].score == 1


@pytest.mark.parametrize("index", [None, "exact", "ivf-fp16"])
def test_rows_that_another_process_adds_are_found_by_a_warm_searcher(tmp_path: Path, index: str | None) -> None:
    store = make_table(tmp_path, VECTORS[:500])
    if index:
        build_index(store, Goal(kind=index))
    searcher = Searcher(EmbeddingStore.open(str(tmp_path)))
    queries = VECTORS[600:604].astype(np.float32)
    assert keys_of(searcher.by_vector(queries)[0]) != []
    add_shard(store, "second", KEYS[500:700], VECTORS[500:700])
    assert [h[0].key for h in searcher.by_vector(queries)] == KEYS[600:604]
    assert searcher.snapshot.version == store.version


@pytest.mark.parametrize("index", [None, "exact", "ivf-rabitq"])
def test_deleted_rows_are_never_found(tmp_path: Path, index: str | None) -> None:
    store = make_table(tmp_path, VECTORS[:500])
    add_shard(store, "second", KEYS[500:700], VECTORS[500:700])
    if index:
        build_index(store, Goal(kind=index))
    searcher = Searcher(store)
    before = searcher.by_vector(VECTORS[600:604].astype(np.float32))
    assert [h[0].key for h in before] == KEYS[600:604]
    add_shard(store, "second", KEYS[690:700], VECTORS[690:700], replaces=True)  # rows 500 … 689 go
    (hits,) = searcher.by_vector(VECTORS[600:601].astype(np.float32), SearchOptions(k=1000))
    assert sorted(keys_of(hits)) == sorted(KEYS[:500] + KEYS[690:700])


def test_a_label_import_leaves_every_hit_in_place(tmp_path: Path) -> None:
    import pyarrow as pa

    store = make_table(tmp_path, VECTORS[:300])
    build_index(store, Goal(kind="ivf-fp16"))
    searcher = Searcher(store)
    before = [keys_of(h) for h in searcher.by_vector(QUERIES[:5])]
    add_columns(store, pa.table({"key": KEYS[:300], "grade": list(range(300))}))
    after = searcher.by_vector(QUERIES[:5], SearchOptions(columns=("grade",)))
    assert [keys_of(h) for h in after] == before
    assert all(hit.columns["grade"] == int(hit.key[1:]) for hits in after for hit in hits)
    assert len(searcher.snapshot.gone) == 0


def test_threads_search_while_rows_are_added_and_the_index_is_rebuilt(tmp_path: Path) -> None:
    store = make_table(tmp_path, VECTORS[:400])
    build_index(store, Goal(kind="ivf-sq8"))
    searcher = Searcher(EmbeddingStore.open(str(tmp_path)))
    stop, wrong = threading.Event(), list[str]()

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not stop.is_set():
            i = int(rng.integers(0, 400))
            (hits,) = searcher.by_vector(VECTORS[i : i + 1].astype(np.float32), SearchOptions(k=3))
            if hits[0].key != KEYS[i]:
                wrong.append(f"{KEYS[i]} → {hits[0].key}")

    threads = [threading.Thread(target=ask, args=(s,)) for s in range(3)]
    for thread in threads:
        thread.start()
    try:
        for start in range(400, 1000, 200):
            add_shard(store, f"s{start}", KEYS[start : start + 200], VECTORS[start : start + 200])
            build_index(EmbeddingStore.open(str(tmp_path)), Goal(kind="ivf-sq8"))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert keys_of(searcher.by_vector(VECTORS[999:1000].astype(np.float32))[0])[0] == "k999"


def _png(value: int) -> bytes:
    import io

    from PIL import Image

    coarse = np.random.default_rng(value).integers(0, 256, (8, 8, 3), np.uint8)
    pixels = coarse.repeat(4, axis=0).repeat(4, axis=1)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def pictures(tmp_path: Path) -> EmbeddingStore:
    """Rows embedded from real image bytes by the stand-in encoder."""
    from indexer.pixels import decode
    from indexer.search.images import unit as unit_vectors

    encoder = FakeEncoder()
    images = [QueryImage(f"i{v}", _png(v), "png") for v in range(10, 250, 8)]
    pixels = np.stack([next(iter(decode(i.data, "png", encoder.spec.pixels))).pixels for i in images])
    vectors = unit_vectors(encoder.embed(pixels), [i.name for i in images]).astype(np.float16)
    store = EmbeddingStore.create(str(tmp_path), "fake", encoder.spec)
    owners = [{"patient": f"P{n // 3}"} for n in range(len(images))]
    add_shard(store, "s", [i.name for i in images], vectors, owners, contents=[i.content for i in images])
    return store


def test_an_image_finds_itself_first_and_others_of_its_patient_can_be_left_out(pictures: EmbeddingStore) -> None:
    searcher = Searcher(pictures, load_encoder=lambda _spec: FakeEncoder())
    queries = [QueryImage("a.png", _png(50), "png"), QueryImage("b.png", _png(90), "png")]
    assert [h[0].key for h in searcher.by_image(queries)] == ["i50", "i90"]
    apart = searcher.by_image(queries, SearchOptions(k=30, exclude_same="patient", columns=("patient",)))
    assert "P1" not in {hit.columns["patient"] for hit in apart[0]}
    assert len(apart[0]) == 27


def test_an_image_that_is_not_stored_has_no_patient_to_leave_out(pictures: EmbeddingStore) -> None:
    searcher = Searcher(pictures, load_encoder=lambda _spec: FakeEncoder())
    with pytest.raises(InputError, match=r"new\.png is not in table"):
        searcher.by_image([QueryImage("new.png", _png(51), "png")], SearchOptions(exclude_same="patient"))


def test_an_image_that_cannot_be_decoded_is_named(pictures: EmbeddingStore) -> None:
    searcher = Searcher(pictures, load_encoder=lambda _spec: FakeEncoder())
    with pytest.raises(InputError, match=r"broken\.png cannot be decoded"):
        searcher.by_image([QueryImage("broken.png", b"no image", "png")])


def test_an_encoder_of_another_fingerprint_is_refused(pictures: EmbeddingStore) -> None:
    searcher = Searcher(pictures, load_encoder=lambda _spec: FakeEncoder(seed=1))
    with pytest.raises(EncoderMismatch):
        searcher.by_image([QueryImage("a.png", _png(50), "png")])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.ones((2, 3)), "needs"),
        (np.array(["a"]), "needs"),
        (np.ones((1, 1, DIM)), "needs"),
        (None, "not a .npy file"),
    ],
)
def test_a_vectors_file_of_the_wrong_form_is_refused(tmp_path: Path, content: np.ndarray | None, message: str) -> None:
    path = tmp_path / "q.npy"
    path.write_bytes(b"text") if content is None else np.save(path, content)
    with pytest.raises(InputError, match=message):
        load_vectors(path, DIM)


@pytest.mark.parametrize(
    ("like", "unlike"), [(("k3",), ()), (("k3", "k40", "k7"), ()), (("k3",), ("k9",)), (("k3", "k5"), ("k9", "k70"))]
)
def test_examples_search_with_their_mean_moved_away_from_the_unlike_ones(plain, like, unlike):
    x = VECTORS.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    rows = {name: x[[int(key[1:]) for key in names]] for name, names in (("like", like), ("unlike", unlike))}
    goal = rows["like"].mean(0) if not unlike else 2 * rows["like"].mean(0) - rows["unlike"].mean(0)
    cosine = x @ goal / np.linalg.norm(goal)
    cosine[[int(key[1:]) for key in like + unlike]] = -2
    right = np.argsort(-cosine)[:5]

    (found,) = answer(Searcher(plain), Query(blends=(Blend(like, unlike),)), SearchOptions(k=5)).queries

    assert [hit.key for hit in found.hits] == [f"k{i}" for i in right]
    assert [hit.score for hit in found.hits] == pytest.approx(cosine[right])


def test_examples_that_are_only_unlike_something_are_refused():
    with pytest.raises(InputError, match="to be like"):
        Blend(unlike=("k1",))
