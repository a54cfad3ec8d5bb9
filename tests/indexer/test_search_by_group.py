"""Search by group against late interaction written out in numpy: every group scored with every row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import indexer.encoders
from indexer.archive.shards import find_shards
from indexer.errors import InputError, RowNotFound, StoreError
from indexer.groups.make import pool
from indexer.pipeline.run import index
from indexer.search.answer import answer
from indexer.search.by_group import answer as by_group
from indexer.search.by_group import candidates
from indexer.search.options import SearchOptions
from indexer.search.queries import Query
from indexer.search.searcher import Searcher
from indexer.store.table import EmbeddingStore
from tests.archives import png
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.tables import add_shard, make_table, unit, unit_rows

N, DIM, GROUPS = 600, 16, 90
VECTORS = unit_rows(N, DIM, seed=3, clusters=9, spread=0.4)
QUERY = unit_rows(5, DIM, seed=8, clusters=9, spread=0.4).astype(np.float32)
OF = np.random.default_rng(4).integers(0, GROUPS, N)
FACTS: list[dict[str, Any]] = [
    {"site": i % 3, "patient": f"p{OF[i] // 4}"} | ({} if i % 11 == 5 else {"series": f"s{OF[i]}"}) for i in range(N)
]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> EmbeddingStore:
    made = make_table(tmp_path_factory.mktemp("groups") / "db", VECTORS, FACTS)
    pool(made, "series")
    return made


def truth(query: np.ndarray, rows: list[int], least: float = -1) -> list[tuple[str, float, int, str]]:
    """Series, score, further rows and key of the best row, best first."""
    found = []
    for name in sorted({FACTS[i].get("series") for i in rows} - {None}):
        own = [i for i in rows if FACTS[i].get("series") == name]
        cosines = unit(query) @ unit(VECTORS[own]).T
        score = round(float(cosines.max(axis=1).mean()), 10)
        best = own[int(np.argmax(np.round(cosines, 10).max(axis=0)))]
        if score >= least:
            found.append((name, score, len(own) - 1, f"k{best}"))
    return sorted(found, key=lambda one: (-one[1], one[0]))


def assert_same(found: list[tuple[str, float, int, str]], wanted: list[tuple[str, float, int, str]]) -> None:
    assert [(group, more, key) for group, _, more, key in found] == [
        (group, more, key) for group, _, more, key in wanted
    ]
    assert [score for _, score, *_ in found] == pytest.approx([score for _, score, *_ in wanted], abs=1e-9)


def shown(result) -> list[tuple[str, float, int, str]]:
    (own,) = result.queries
    assert all(hit.parts[0].key == hit.key for hit in own.hits)
    return [(hit.group, hit.score, hit.more, hit.key) for hit in own.hits]


EVERY = list(range(N))


def test_exact_search_ranks_every_group_as_brute_force_does(store) -> None:
    result = answer(Searcher(store, exact=True), Query(vectors=QUERY), SearchOptions(k=GROUPS, by="series"))
    assert_same(shown(result), truth(QUERY, EVERY))
    (hit, *_), parts = result.queries[0].hits, {}
    for match in hit.parts:
        row = int(match.key[1:])
        parts[match.query] = float((unit(QUERY) @ unit(VECTORS[[row]]).T)[int(match.query[4:]), 0])
        assert match.score == pytest.approx(parts[match.query], abs=1e-9)
    assert [match.score for match in hit.parts] == sorted((match.score for match in hit.parts), reverse=True)


def test_filter_exclusion_and_lowest_score_hold_for_rows_and_groups(store) -> None:
    options = SearchOptions(k=20, by="series", where="site <> 1", min_score=0.3, exclude_same="patient")
    result = answer(Searcher(store, exact=True), Query(keys=("k0", "k1")), options)
    patients = {FACTS[0]["patient"], FACTS[1]["patient"]}
    rows = [i for i in EVERY if FACTS[i]["site"] != 1 and FACTS[i]["patient"] not in patients]
    assert_same(shown(result), truth(VECTORS[:2], rows, 0.3)[:20])


def test_candidates_are_ranked_exactly_and_pages_never_repeat_or_lose_a_group(store, monkeypatch) -> None:
    monkeypatch.setattr(candidates, "FEWEST", 12)
    monkeypatch.setattr(candidates, "CANDIDATE_ROWS", 1)
    searcher = Searcher(store)
    whole = shown(answer(searcher, Query(vectors=QUERY), SearchOptions(k=GROUPS, by="series")))
    brute = truth(QUERY, EVERY)
    assert_same(sorted(whole), sorted(brute))  # all groups, each with its exact score
    pages = [
        shown(answer(searcher, Query(vectors=QUERY), SearchOptions(k=7, offset=o, by="series")))
        for o in range(0, GROUPS, 7)
    ]
    assert [one for page in pages for one in page] == whole


def test_a_stored_series_is_a_query_of_all_its_rows_and_never_its_own_hit(store) -> None:
    own = [i for i in EVERY if FACTS[i].get("series") == "s7"]
    result = answer(Searcher(store, exact=True), Query(groups=("s7",)), SearchOptions(k=10, by="series"))
    assert f"all of {len(truth(QUERY, EVERY))} groups" in result.how
    rest = [i for i in EVERY if FACTS[i].get("series") != "s7"]
    assert_same(shown(result), truth(VECTORS[own], rest)[:10])
    with pytest.raises(RowNotFound, match="has series 's777'"):
        answer(Searcher(store), Query(groups=("s777",)), SearchOptions(by="series"))


def test_of_a_query_of_very_many_parts_evenly_spaced_ones_are_used_and_the_answer_says_so(store, monkeypatch) -> None:
    monkeypatch.setattr(by_group, "MOST_PARTS", 3)
    result = answer(Searcher(store), Query(vectors=QUERY), SearchOptions(k=4, by="series"))
    assert_same(shown(result), truth(QUERY[[0, 2, 4]], EVERY)[:4])
    assert "3 parts of the query, evenly spaced of 5" in result.how
    own = [i for i in EVERY if FACTS[i].get("series") == "s7"]
    used = VECTORS[own][[0, round((len(own) - 1) / 2), -1]]
    result = answer(Searcher(store), Query(groups=("s7",)), SearchOptions(k=4, by="series"))
    assert_same(shown(result), [one for one in truth(used, EVERY) if one[0] != "s7"][:4])
    assert f"3 parts of the query, evenly spaced of {len(own)}" in result.how


def test_missing_or_older_pooled_vectors_are_refused_in_one_line(tmp_path) -> None:
    db = tmp_path / "db"
    store = make_table(db, VECTORS[:50], FACTS[:50])
    done = call("indexer", "search", db, "--key", "k0", "--by", "series")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert f"Run `indexer pool {db} --table t --by series`" in done.err
    pool(store, "series")
    assert call("indexer", "search", db, "--key", "k0", "--by", "series").code == 0
    add_shard(store, "more", ["new"], VECTORS[60:61], [{"series": "s1"}])
    with pytest.raises(StoreError, match="indexer pool"):
        answer(Searcher(store), Query(keys=("k0",)), SearchOptions(by="series"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--key", "k0", "--by", "nix"), "--by nix: no such column"),
        (("--key", "k0", "--by", "series", "--one-per", "patient"), "leave --one-per"),
        (("--group", "s1"), "give that too"),
        (("--by", "series"), "name one kind of query"),
    ],
)
def test_wrong_uses_are_named(store, words, said) -> None:
    done = call("indexer", "search", store.uri, *words)
    assert done.code in (1, 2)
    assert said in done.err
    with pytest.raises(InputError, match="leave --one-per out"):
        SearchOptions(by="series", one_per="patient")


def test_a_column_named_as_a_field_of_a_hit_takes_not_its_place_in_piped_rows(tmp_path) -> None:
    facts = [{"series": f"s{i % 5}", "group": "own", "score": 7.0} for i in range(20)]
    store = make_table(tmp_path / "db", VECTORS[:20], facts)
    pool(store, "series")
    for options, group in ((("--by", "series"), ["group"]), (("--one-per", "series"), [])):
        asked = ("indexer", "search", store.uri, "--key", "k0", *options, "--columns", "group,score,key")
        head, *lines = (line.split("\t") for line in call(*asked).out.splitlines())
        hits = call(*asked, "--json").json["queries"][0]["hits"]
        assert head == ["query", "rank", "score", *group, "key", "more", f"{'columns.' if group else ''}group",
                        "columns.score"]  # fmt: skip
        for line, hit in zip(lines, hits, strict=True):
            row = dict(zip(head, line, strict=True))
            assert (float(row["score"]), float(row["columns.score"])) == (pytest.approx(hit["score"], abs=1e-5), 7)
            assert {row[name] for name in head if name.endswith("group")} == {"own", *([hit["group"]] if group else [])}


def test_files_and_folders_are_one_query_and_page_table_and_json_show_the_same_groups(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(indexer.encoders, "load_spec", lambda _spec, **_options: FakeEncoder())
    for seed in range(12):
        folder = tmp_path / "images" / f"case{seed // 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{seed}.png").write_bytes(png(seed))
    db, query = tmp_path / "db", tmp_path / "images" / "case2"
    store = EmbeddingStore.create(str(db), "t", FakeEncoder().spec)
    index(find_shards([str(tmp_path / "images")]).shards, store, FakeEncoder())
    labels = tmp_path / "cases.csv"
    labels.write_text("key,case\n" + "".join(f"case{s // 3}/{s}.png,case{s // 3}\n" for s in range(12)))
    assert call("indexer", "labels", db, labels, "--on", "key").code == 0
    assert call("indexer", "pool", db, "--by", "case").code == 0
    one = call("indexer", "search", db, query, "--by", "case", "--html", tmp_path / "p.html", "--json").json
    files = call("indexer", "search", db, *sorted(query.iterdir()), "--by", "case", "--json").json
    hits = one["queries"][0]["hits"]
    assert (hits[0]["group"], round(hits[0]["score"], 3), hits[0]["more"]) == ("case2", 1.0, 2)
    assert sorted(part["key"] for part in hits[0]["parts"]) == ["case2/6.png", "case2/7.png", "case2/8.png"]
    assert [hit["group"] for hit in files["queries"][0]["hits"]] == [hit["group"] for hit in hits]
    piped = call("indexer", "search", db, query, "--by", "case").out.splitlines()
    assert piped[0].split("\t")[:5] == ["query", "rank", "score", "group", "key"]
    page = (tmp_path / "p.html").read_text()
    assert all(f"{hit['score']:.4f}" in page and hit["group"] in page for hit in hits)
    assert page.count("data:image/jpeg") == 1 + len(hits)
