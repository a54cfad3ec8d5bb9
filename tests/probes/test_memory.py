"""What a probe reads: the labelled rows, not the table; and the join of a comparison against a plain dictionary."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from indexer.store.labelling.join import add_columns
from indexer.store.table import EmbeddingStore
from probes.cohort import cache, matching, vectors
from probes.cohort.load import load
from probes.request import ProbeRequest
from tests.probes.cohort import make_rows
from tests.tables import make_table


def few_labels(folder, n=4000, labelled=100, dim=12):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, dim))
    spots = rng.choice(n, labelled, replace=False)
    rows = [{"patient": f"p{i}", "ill": None, "Finding": None, "score": None} for i in range(n)]
    for i in spots:
        rows[i]["ill"] = rows[i]["Finding"] = int(rng.integers(0, 2))
        rows[i]["score"] = float(rows[i]["ill"])
    rows[spots[0]]["score"] = float("nan")
    make_rows(folder, x, rows)
    return rows


def request(folder, label="ill", **more):
    return ProbeRequest(str(folder), "linear", (label,), group="patient", **more)


@pytest.mark.parametrize("where", [None, "patient != 'p7'"])
@pytest.mark.parametrize("label", ["ill", "Finding", "score"])
def test_a_hundred_labels_read_a_hundred_vectors_of_a_large_table(tmp_path, monkeypatch, label, where):
    rows = few_labels(tmp_path)
    store = EmbeddingStore.open(str(tmp_path))
    read = []
    whole, taken = EmbeddingStore.vectors, EmbeddingStore.take
    monkeypatch.setattr(EmbeddingStore, "vectors", lambda *_, **__: pytest.fail("the whole table is read"))
    monkeypatch.setattr(EmbeddingStore, "take", lambda s, ids, *a, **k: read.append(len(ids)) or taken(s, ids, *a, **k))
    found = load(store, request(tmp_path, label, where=where))
    monkeypatch.undo()
    expected = [i for i, row in enumerate(rows) if row[label] is not None and row[label] == row[label]]
    assert found.keys == tuple(f"k{i}" for i in expected)
    assert sum(read) == len(expected)
    assert (found.vectors.unit == whole(store).vectors[expected]).all()
    assert (found.flow.matched, found.flow.labelled) == (4000 - (where is not None), len(expected))
    assert found.flow.unlabelled == found.flow.matched - len(expected)


def test_where_most_rows_have_labels_all_are_read_at_once(tmp_path, monkeypatch):
    few_labels(tmp_path, n=300, labelled=200)
    called = []
    monkeypatch.setattr(vectors, "cached_vectors", lambda *a: called.append(a) or cache.cached_vectors(*a))
    found = load(EmbeddingStore.open(str(tmp_path)), request(tmp_path))
    assert len(called) == 1
    assert found.vectors.unit.shape == (200, 12)


def test_rows_are_taken_in_parts_and_in_the_order_asked_for(tmp_path, monkeypatch):
    few_labels(tmp_path, n=500, labelled=50)
    store = EmbeddingStore.open(str(tmp_path))
    monkeypatch.setattr(vectors, "TAKEN", 7)
    every = store.vectors()
    asked = np.random.default_rng(1).permutation(500)[:60]
    assert (vectors.read_vectors(store, None, every.row_ids[asked], 500) == every.vectors[asked]).all()


def test_keys_are_found_by_themselves_even_where_hashes_collide(monkeypatch):
    monkeypatch.setattr(matching, "hashes", lambda texts: np.array([len(t) for t in texts], np.int64))
    wanted = ["a", "bb", "cc", "ddd", "cd"]
    keys = ["cc", "xx", "ddd", "", "cd", "a", "zzzz"]
    found = matching.KeyPlaces(wanted).find(keys, matching.hashes(keys))
    assert found.tolist() == [2, -1, 3, -1, 4, 0, -1]


def test_a_comparison_joins_what_a_dictionary_joins(tmp_path):
    from probes.progress import Stages
    from probes.runs.compare import compare

    rng = np.random.default_rng(3)
    first = rng.standard_normal((900, 8))
    metadata = [{"patient": f"p{i % 300}", "ill": (i // 2) % 2 if i % 3 else None} for i in range(900)]
    unit = (first / np.linalg.norm(first, axis=1, keepdims=True)).astype(np.float16)
    make_table(tmp_path, unit, metadata, "one")
    other = make_table(tmp_path, unit[:700], metadata[:700], "two")
    found, _ = compare(
        ProbeRequest(str(tmp_path), "prototype", ("ill",), group="patient", replicates=20),
        ["one", "two"], "auc_macro", Stages(shown=False),
    )  # fmt: skip
    labelled = {f"k{i}" for i, row in enumerate(metadata) if row["ill"] is not None}
    shared = labelled & {f"k{i}" for i in range(700)}
    assert other.count() == 700
    assert (found.rows, found.unmatched) == (len(shared), {"one": len(labelled - shared), "two": 0})
    assert found.results[0].test.metrics == found.results[1].test.metrics


def test_a_label_column_of_nothing_is_named_before_any_vector_is_read(tmp_path):
    few_labels(tmp_path, n=100, labelled=30)
    store = EmbeddingStore.open(str(tmp_path))
    keys = store.vectors(None, ["key"]).columns.column("key")
    add_columns(store, pa.table({"key": keys, "empty": pa.array([None] * len(keys), pa.string())}))
    with pytest.raises(Exception, match="column empty has no value"):
        load(EmbeddingStore.open(str(tmp_path)), request(tmp_path, "empty"))
