"""Near-duplicate groups against all pairs of groups and rows in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pv
import pyarrow.parquet as pq
import pytest

from indexer.duplicates import group_pairs, group_rows
from indexer.duplicates.group_pairs import stream_near_groups
from indexer.duplicates.options import GroupOptions
from indexer.groups.make import pool
from indexer.store.table import EmbeddingStore
from tests.commands import call
from tests.tables import add_shard, cosines, make_table, unit, unit_rows

DIM = 16


def studies(folder: Path, seed: int = 0, count: int = 24) -> EmbeddingStore:
    """Studies of rows about a direction of their own, mixed in the table; every third is a noisy copy of a part of the
    one before, or of all; one row in nine is in no study."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[str | None, np.ndarray]] = []
    before = np.empty((0, DIM))
    for number in range(count):
        own = rng.standard_normal(DIM) + 0.5 * rng.standard_normal((int(rng.integers(1, 12)), DIM))
        if number % 3 == 2:
            shared = before[: max(1, int(len(before) * rng.choice([0.3, 0.6, 1])))]
            own = np.concatenate([shared + 0.05 * rng.standard_normal(shared.shape), own[: int(rng.integers(0, 3))]])
        rows += [(f"s{number}" if rng.random() > 1 / 9 else None, row) for row in own]
        before = own
    order = rng.permutation(len(rows))
    vectors = np.stack([rows[i][1] for i in order])
    units = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    return make_table(folder, units, [{"study": rows[i][0]} for i in order])


def truth(store: EmbeddingStore, options: GroupOptions) -> tuple[int, dict[tuple[str, str], tuple[int, int]]]:
    """The number of candidates, and the near rows of both groups of each pair, by names in alphabetical order."""
    read = store.vectors(columns=[options.by])
    names = np.array([name or "" for name in read.columns.column(options.by).to_pylist()])
    own = {name: read.vectors[names == name] for name in sorted(set(names) - {""})}
    means = {name: unit(rows).mean(axis=0)[None] for name, rows in own.items()}
    candidates, found = 0, {}
    for a in own:
        for b in (b for b in own if b > a):
            if cosines(means[a], means[b])[0, 0] < options.candidate_cosine:
                continue
            candidates += 1
            close = np.round(cosines(own[a], own[b]), 12) >= options.threshold
            near = int(close.any(1).sum()), int(close.any(0).sum())
            if max(near[0] / len(own[a]), near[1] / len(own[b])) >= options.share:
                found[a, b] = near
    return candidates, found


def listed(store: EmbeddingStore, options: GroupOptions) -> tuple[Any, list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    report = stream_near_groups(store, options, lambda block: rows.extend(block.to_pylist()))
    return report, rows


def named(rows: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[int, int]]:
    """Near rows by the names of both groups, whichever the table has first."""
    return dict(sorted(((row[f"group_{x}"], row[f"group_{y}"]), (row[f"near_{x}"], row[f"near_{y}"]))
                       for row in rows for x, y in ("ab", "ba") if row[f"group_{x}"] < row[f"group_{y}"]))  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("share", "candidates"), [(0.5, None), (1, 0.6), (0.05, -1)])
def test_pairs_of_groups_and_their_shares_are_those_of_all_rows_compared(
    tmp_path, monkeypatch, seed, share, candidates
):
    """With blocks of a few rows and pairs each."""
    for module, name, value in (
        (group_rows, "LEFT", 3), (group_rows, "RIGHT", 4), (group_pairs, "TOGETHER", 2),
        (group_pairs, "BLOCK_PAIRS", 3),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    store = studies(tmp_path, seed)
    pool(store, "study")
    options = GroupOptions("study", 0.9, share, candidates)
    report, rows = listed(store, options)
    compared, true = truth(store, options)
    assert true
    assert named(rows) == true
    assert (report.candidates, report.pairs, report.listed_pairs) == (compared, len(true), len(rows))
    sizes = {
        name: size for row in rows for name, size in ((row["group_a"], row["rows_a"]), (row["group_b"], row["rows_b"]))
    }
    column = store.vectors(columns=["study"]).columns.column("study").to_pylist()
    assert sizes == {name: column.count(name) for name in sizes}
    assert (report.rows, report.ungrouped) == (len(column) - column.count(None), column.count(None))
    for row in rows:
        assert (row["share_a"], row["share_b"]) == (row["near_a"] / row["rows_a"], row["near_b"] / row["rows_b"])
    ranks = [
        (-min(row["share_a"], row["share_b"]), -max(row["share_a"], row["share_b"]), -row["cosine"]) for row in rows
    ]
    assert ranks == sorted(ranks)
    assert report.both_ways == sum(-rank[0] >= share for rank in ranks)
    parts: list[set[str]] = []
    for pair in true:
        joined = set(pair).union(*(part for part in parts if part & set(pair)))
        parts = [part for part in parts if not part & joined] + [joined]
    assert (report.clusters, report.largest_cluster) == (len(parts), max(map(len, parts)))
    assert report.groups_in_clusters == sum(map(len, parts))
    clusters = {frozenset(part): {row["cluster"] for row in rows if row["group_a"] in part} for part in parts}
    assert sorted(next(iter(own)) for own in clusters.values()) == list(range(len(parts)))
    assert {len(own) for own in clusters.values()} == {1}


def test_of_more_pairs_than_are_listed_the_nearest_are_listed_and_all_counted(tmp_path):
    store = studies(tmp_path, count=30)
    pool(store, "study")
    whole, all_rows = listed(store, GroupOptions("study", 0.9, 0.05, -1))
    few, rows = listed(store, GroupOptions("study", 0.9, 0.05, -1, listed=3))
    assert (few.pairs, few.listed_pairs) == (whole.pairs, 3)
    assert whole.pairs > 9
    assert [row["group_a"] for row in rows] == [row["group_a"] for row in all_rows[:3]]


def test_the_same_study_under_two_names_is_found_and_written(tmp_path):
    rows = unit_rows(60, DIM, clusters=6, spread=1)
    store = make_table(tmp_path / "db", rows, [{"study": f"s{i % 6}"} for i in range(60)])
    add_shard(store, "again", [f"c{i}" for i in range(10)], rows[3::6], [{"study": "s3 again"}] * 10)
    assert call("indexer", "pool", store.uri, "--by", "study").code == 0
    for out, read in ((tmp_path / "pairs.parquet", pq.read_table), (tmp_path / "pairs.csv", pv.read_csv)):
        done = call("indexer", "near-duplicates", store.uri, "--by", "study", "--out", out, "--json")
        assert done.code == 0, done.err
        assert (done.json["groups"], done.json["pairs"], done.json["both_ways"]) == (7, 1, 1)
        (pair,) = read(out).to_pylist()
        assert {pair["group_a"], pair["group_b"]} == {"s3", "s3 again"}
        assert (pair["share_a"], pair["share_b"], pair["rows_a"], pair["near_b"]) == (1, 1, 10, 10)
        assert done.json["first_pairs"] == [pair]


def test_a_table_of_one_group_has_no_pair_and_an_empty_list(tmp_path):
    store = make_table(tmp_path / "db", unit_rows(5, DIM), [{"study": "s"}] * 5)
    pool(store, "study")
    out = tmp_path / "pairs.parquet"
    done = call("indexer", "near-duplicates", store.uri, "--by", "study", "--out", out, "--json")
    assert (done.code, done.json["pairs"], done.json["clusters"], pq.read_table(out).num_rows) == (0, 0, 0, 0)


def test_groups_that_were_not_pooled_or_of_an_older_version_are_refused_in_one_line(tmp_path):
    store = make_table(tmp_path / "db", unit_rows(20, DIM), [{"study": f"s{i % 4}"} for i in range(20)])
    asked = ("indexer", "near-duplicates", store.uri, "--by", "study", "--out", tmp_path / "pairs.csv")
    done = call(*asked)
    assert (done.code, done.out) == (1, "")
    assert "no vectors pooled by study. Run `indexer pool " in done.err
    pool(store, "study")
    add_shard(store, "more", ["a"], unit_rows(1, DIM, 5), [{"study": "s1"}])
    done = call(*asked)
    assert (done.code, done.out) == (1, "")
    assert "Run `indexer pool " in done.err
    assert not (tmp_path / "pairs.csv").exists()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--by", "nix"), 1, "no such column"),
        (("--by", "study", "--share", "0"), 2, "0<x<=1"),
        (("--by", "study", "--candidates", "2"), 2, "-1<=x<=1"),
        (("--by", "study", "--where", "key = 'k0'"), 1, "--where is of images"),
        (("--by", "study", "--pairs-per-cluster", "5"), 1, "--pairs-per-cluster is of images"),
        (("--share", "0.5"), 1, "Name a column with --by"),
    ],
)
def test_what_makes_no_sense_for_groups_is_refused(tmp_path, options, code, words):
    store = make_table(tmp_path / "db", unit_rows(8, DIM), [{"study": f"s{i % 2}"} for i in range(8)])
    done = call("indexer", "near-duplicates", store.uri, *options)
    assert (done.code, done.out) == (code, "")
    assert words in done.err
