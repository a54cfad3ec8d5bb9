"""D14: stored images against stored class texts; nothing is fitted and no model is needed."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as sk

from indexer.store.rows import TextVectors
from indexer.store.table import EmbeddingStore
from indexer.store.text import write_text
from tests.commands import call
from tests.probes.cohort import FINDINGS, make_cohort, make_rows, rows_of
from tests.probes.test_results import FINDING, values
from tests.probes.test_rows import QUICK, probe, refusal


def texts(db, classes=FINDINGS, *, scale=100.0, bias=None, task="findings"):
    """Class-text vectors: the mean of the images, with some noise, as unit rows (c, dim)."""
    store = EmbeddingStore.open(db)
    rows = store.vectors(None, ["finding"])
    names = np.array(rows.columns.column("finding").to_pylist())
    noise = np.random.default_rng(0).standard_normal((len(classes), store.dim))
    means = [
        rows.vectors[names == c].astype(np.float64).mean(0) if c in FINDINGS else np.ones(store.dim) for c in classes
    ]
    vectors = np.stack(means) + 0.1 * noise
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    write_text(store, task, TextVectors(tuple(classes), vectors, scale, bias))
    return vectors


@pytest.fixture
def db(tmp_path):
    return make_cohort(tmp_path / "db")


def scored(db, out, *options):
    found = probe("zero-shot", db, *FINDING, "--task", "findings", "--out", out, *options)
    rows = pq.read_table(out / "predictions.parquet").to_pydict()
    return found, rows, np.stack([rows[f"p({name})"] for name in FINDINGS], axis=1)


def unit_rows(db, keys):
    table = EmbeddingStore.open(db).vectors(None, ["key"])
    place = {key: i for i, key in enumerate(table.columns.column("key").to_pylist())}
    rows = table.vectors[[place[key] for key in keys]].astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_clip_scores_are_a_softmax_of_scaled_cosines_with_no_fitted_temperature(db, tmp_path):
    text = texts(db)
    found, rows, p = scored(db, tmp_path / "out")
    logits = 100 * unit_rows(db, rows["key"]) @ text.astype(np.float64).T
    expected = np.exp(logits - logits.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    assert p == pytest.approx(expected, abs=1e-9)
    y = [FINDINGS.index(name) for name in rows["true"]]
    assert values(found["test"])["auc_macro"] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr"))
    assert values(found["test"])["auc_macro"] > 0.8
    assert found["temperature"] != 1  # fitted, reported with the calibration, applied to nothing
    assert found["audit"] is None
    assert found["selection"]["inner"] == "fixed"


def test_siglip_scores_are_logistic_and_made_to_sum_to_one(db, tmp_path):
    text = texts(db, scale=20.0, bias=-8.0)
    _, rows, p = scored(db, tmp_path / "out")
    sigma = 1 / (1 + np.exp(-(20 * unit_rows(db, rows["key"]) @ text.astype(np.float64).T - 8)))
    assert p == pytest.approx(sigma / sigma.sum(1, keepdims=True), abs=1e-9)


def test_text_classes_decide_the_order_and_one_without_images_is_named(db, tmp_path):
    texts(db, ("none", "cyst", *FINDINGS[:2]))
    found, _, _ = scored(db, tmp_path / "out")
    assert [c["name"] for c in found["test"]["classes"]] == ["none", "cyst", "effusion", "mass"]
    assert found["test"]["excluded"] == ["cyst"]
    assert "no test row of: cyst; metrics not defined" in found["warnings"]


def test_a_class_that_train_lacks_keeps_its_metrics_as_nothing_is_fitted(tmp_path):
    vectors, metadata = rows_of(80)
    keep = [i for i, row in enumerate(metadata) if row["side"] == "test" or row["finding"] != "mass"]
    make_rows(tmp_path / "db", vectors[keep], [metadata[i] for i in keep])
    texts(str(tmp_path / "db"))
    found, _, _ = scored(str(tmp_path / "db"), tmp_path / "out", "--split", "side")
    assert found["test"]["excluded"] == []


def test_rows_of_a_class_without_a_text_are_an_error(db):
    texts(db, FINDINGS[:2])
    assert "holds none, for which there is no text vector (there are: effusion, mass)" in refusal(
        "zero-shot", db, *FINDING, "--task", "findings"
    )


def test_missing_and_foreign_texts_are_errors(db, tmp_path):
    assert "no text vectors for task 'other'" in refusal("zero-shot", db, *FINDING, "--task", "other")
    texts(db)
    side = tmp_path / "db" / "t.text.lance"
    other = make_cohort(tmp_path / "other", name="t")
    import lance

    rows = lance.dataset(str(side)).to_table()
    column = rows.column_names.index("fingerprint")
    import pyarrow as pa

    foreign = rows.set_column(column, "fingerprint", pa.array(["0" * 16] * rows.num_rows))
    lance.write_dataset(foreign, str(tmp_path / "other" / "t.text.lance"))
    assert "are of another checkpoint than table t" in refusal("zero-shot", other, *FINDING, "--task", "findings")


def test_what_zero_shot_cannot_do_is_an_error(db):
    texts(db)
    assert "there is no cross-validation" in refusal(
        "zero-shot", db, *FINDING, "--task", "findings", "--split", "nested"
    )
    assert "takes one class a row" in refusal(
        "zero-shot", db, "--label", "a,b", "--multilabel", "--group", "patient", "--task", "findings"
    )


def test_a_zero_shot_result_is_reproduced_and_predicts(db, tmp_path):
    texts(db)
    out = tmp_path / "out"
    _, rows, p = scored(db, out)
    assert call("probes", "rerun", out, "--json").json["reproduced"]
    predicted = {r["key"]: r["probabilities"] for r in call("probes", "predict", out, db, "--json").json["rows"]}
    assert [predicted[key]["mass"] for key in rows["key"]] == pytest.approx(p[:, 1].tolist(), abs=1e-9)
    assert call("probes", "zero-shot", db, *FINDING, "--task", "findings", *QUICK).json["test"] is not None
