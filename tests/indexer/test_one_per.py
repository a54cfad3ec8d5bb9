"""One hit for each value of a column, against every row scored and grouped in plain Python."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.ann.goal import Goal
from indexer.errors import InputError
from indexer.search import grouped
from indexer.search.index_build import build_index
from indexer.search.options import SearchOptions
from indexer.search.searcher import Searcher
from indexer.store.table import EmbeddingStore
from indexer.types import Hit
from tests.commands import call
from tests.tables import add_shard, cosines, make_table, unit_rows

N, DIM = 900, 16
VECTORS = unit_rows(N, DIM, seed=3, clusters=6, spread=0.3)
QUERIES = unit_rows(7, DIM, seed=8, clusters=6, spread=0.3).astype(np.float32)


def facts(i: int) -> dict[str, Any]:
    """Sizes from one row to a half of the table, and rows without a patient."""
    own: dict[str, Any] = {"sex": "FM"[i % 2], "site": i % 7, "day": str(datetime.date(2020, 1, 1 + i % 31))}
    own["score"] = [1.5, 2.5][i % 2]
    return own if i % 9 == 0 else own | {"patient": f"P{int(i**0.5)}"}


FACTS = [facts(i) for i in range(N)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, EmbeddingStore]:
    plain = make_table(tmp_path_factory.mktemp("plain"), VECTORS, FACTS)
    out = {"plain": plain, "streamed": plain}
    for kind in ("exact", "ivf-fp16"):
        out[kind] = make_table(tmp_path_factory.mktemp(kind), VECTORS[:800], FACTS[:800])
        build_index(out[kind], Goal(kind=kind, recall=1))
        add_shard(out[kind], "newer", [f"k{i}" for i in range(800, N)], VECTORS[800:], FACTS[800:])
    return out


@pytest.fixture(params=["plain", "streamed", "exact", "ivf-fp16"])
def searcher(request: pytest.FixtureRequest, tables: dict[str, EmbeddingStore]) -> Searcher:
    if request.param == "streamed":
        return Searcher(tables["streamed"], memory_bytes=0)
    return Searcher(tables[request.param])


@pytest.fixture(params=[None, 8])
def widest(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 8 hits fetched at once, the rows of the values found are excluded again and again."""
    if request.param:
        monkeypatch.setattr(grouped, "WIDEST", request.param)


def expected(query: int, column: str, rows: list[int], min_score: float = -1) -> list[tuple[str, int]]:
    """The best row of each value among these rows, best first, and the number of the value's others."""
    scores = np.round(cosines(QUERIES[[query]], VECTORS)[0], 12)
    rows = [i for i in rows if scores[i] >= min_score]
    found: dict[Any, list[int]] = {}
    for i in sorted(rows, key=lambda i: (-scores[i], i)):
        found.setdefault(FACTS[i].get(column, ("row", i)), []).append(i)
    return [(f"k{members[0]}", len(members) - 1) for members in found.values()]


def shown(hits: list[Hit]) -> list[tuple[str, int]]:
    assert [hit.rank for hit in hits] == list(range(hits[0].rank, hits[0].rank + len(hits))) if hits else True
    return [(hit.key, hit.more) for hit in hits]


@pytest.mark.case("U7")
@pytest.mark.usefixtures("widest")
@pytest.mark.parametrize("column", ["patient", "sex", "site", "day", "score", "key"])
def test_each_value_has_its_best_row_and_the_number_of_others(searcher: Searcher, column: str) -> None:
    found = searcher.by_vector(QUERIES, SearchOptions(k=5, one_per=column))
    for query, hits in enumerate(found):
        values = expected(query, column, list(range(N))) if column != "key" else None
        if values is None:
            assert [hit.more for hit in hits] == [0] * 5
        else:
            assert shown(hits) == values[:5]


@pytest.mark.usefixtures("widest")
def test_filter_lowest_score_and_pages_hold_together(searcher: Searcher) -> None:
    rows = [i for i in range(N) if i % 7 != 3]
    options = {"k": 4, "one_per": "patient", "where": "site != 3", "min_score": 0.8}
    for query in range(len(QUERIES)):
        values = expected(query, "patient", rows, 0.8)
        pages = [searcher.by_vector(QUERIES[[query]], SearchOptions(offset=o, **options))[0] for o in range(0, 44, 4)]
        assert [row for page in pages for row in shown(page)] == values[:44]


@pytest.mark.usefixtures("widest")
def test_the_querys_own_patient_is_left_out_and_not_counted(searcher: Searcher) -> None:
    key, own = "k400", FACTS[400]["patient"]
    others = [i for i in range(N) if FACTS[i].get("patient") != own and i != 400]
    scores = np.round(cosines(VECTORS[[400]].astype(np.float32), VECTORS)[0], 12)
    for column in ("site", "patient"):
        (hits,) = searcher.by_key([key], SearchOptions(k=6, one_per=column, exclude_same="patient"))
        found: dict[Any, list[int]] = {}
        for i in sorted(others, key=lambda i: (-scores[i], i)):
            found.setdefault(FACTS[i].get(column, ("row", i)), []).append(i)
        assert shown(hits) == [(f"k{rows[0]}", len(rows) - 1) for rows in found.values()][:6]


def test_many_rows_of_two_values_are_excluded_as_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3,000 nearer rows of one value: no search asks for them all."""
    near = unit_rows(3000, 8, clusters=1, spread=0.01)
    vectors = np.concatenate([near, -near[:20]])
    store = make_table(tmp_path, vectors, [{"sex": "F" if i < 3000 else "M"} for i in range(3020)])
    asked: list[int] = []
    search = grouped.Snapshot.search

    def noted(self: Any, queries: Any, k: int, allowed: Any) -> Any:
        asked.append(k)
        return search(self, queries, k, allowed)

    monkeypatch.setattr(grouped.Snapshot, "search", noted)
    (hits,) = Searcher(store).by_vector(near[:1].astype(np.float32), SearchOptions(one_per="sex", columns=("sex",)))
    assert [(hit.columns["sex"], hit.more) for hit in hits] == [("F", 2999), ("M", 19)]
    assert max(asked) <= grouped.WIDEST


def test_a_column_that_is_none_is_named(searcher: Searcher) -> None:
    with pytest.raises(InputError, match=r"--one-per nosuch.*patient"):
        searcher.by_vector(QUERIES, SearchOptions(one_per="nosuch"))


def test_the_command_line_shows_the_others_in_text_json_and_pages(
    tables: dict[str, EmbeddingStore], tmp_path: Path
) -> None:
    (values,) = [expected(0, "site", list(range(N)))[:3]]
    np.save(tmp_path / "q.npy", QUERIES[:1])
    page = tmp_path / "page.html"
    options = ("--vectors", tmp_path / "q.npy", "--one-per", "site", "-k", 3)
    text = call("indexer", "search", tables["plain"].uri, *options, "--html", page, "--columns", "sex")
    assert text.code == 0, text.err
    rows = [line.split("\t") for line in text.out.splitlines()]
    assert rows[0] == ["query", "rank", "score", "key", "more", "sex"]
    assert [(row[3], int(row[4])) for row in rows[1:]] == values
    hits = call("indexer", "search", tables["plain"].uri, *options, "--json").json["queries"][0]["hits"]
    assert [(hit["key"], hit["more"]) for hit in hits] == values
    for _, more in values:
        assert f"{more} more of this site" in page.read_text()
    assert "--one-per site" in page.read_text()
