"""D16: a fitted probe as a folder: applied to rows and to new images, refused elsewhere, and reproduced."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from indexer.errors import ProbeError
from indexer.store.labelling.join import add_columns
from indexer.store.table import EmbeddingStore
from probes.runs.bundle import read_bundle
from probes.runs.predict import score_rows
from tests.commands import call
from tests.probes.cohort import make_cohort, rows_of
from tests.probes.test_results import FINDING
from tests.probes.test_rows import probe
from tests.tables import add_shard, spec_for

KINDS = [
    ("linear",), ("linear", "--scaling", "zscore"), ("linear", "--scaling", "center_l2"),
    ("linear", "--scaling", "raw"), ("knn",), ("knn", "--preset", "medmnist"), ("knn", "--preset", "uni"),
    ("prototype",), ("svm",), ("svm", "--kernel", "rbf"), ("mlp",), ("forest",),
]  # fmt: skip


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("cohort"), patients=80)


def fitted(folder, db, *how):
    return probe(how[0], db, *FINDING, *how[1:], "--out", folder)


@pytest.mark.parametrize("how", KINDS, ids=" ".join)
def test_a_batch_gives_what_each_row_alone_gives_and_what_the_result_says(db, tmp_path, how):
    fitted(tmp_path, db, *how)
    written = pq.read_table(tmp_path / "predictions.parquet").to_pydict()
    rows = {r["key"]: r["probabilities"] for r in call("probes", "predict", tmp_path, db, "--json").json["rows"]}
    assert len(rows) == 240
    for name in ("effusion", "mass", "none"):
        assert [rows[key][name] for key in written["key"]] == pytest.approx(written[f"p({name})"], abs=1e-6)
    bundle = read_bundle(tmp_path)
    table = EmbeddingStore.open(db).vectors(None, ["key", "norm"])
    norms = table.columns.column("norm").to_numpy().astype(np.float32)
    batch = score_rows(bundle, table.vectors, norms)
    alone = np.concatenate([score_rows(bundle, table.vectors[i : i + 1], norms[i : i + 1]) for i in range(240)])
    assert np.abs(batch - alone).max() < 1e-6


@pytest.mark.parametrize("how", KINDS, ids=" ".join)
def test_a_rerun_reproduces_weights_and_metrics(db, tmp_path, how):
    fitted(tmp_path, db, *how, "--subgroup", "site")
    done = call("probes", "rerun", tmp_path, "--json")
    assert done.code == 0, done.out
    assert done.json["largest_difference"] <= 1e-9
    assert done.json["weights_difference"] <= 1e-6
    assert done.json["changed"] == []


def test_nested_and_few_shot_results_are_reproduced_too(db, tmp_path):
    fitted(tmp_path / "nested", db, "linear", "--split", "nested")
    fitted(tmp_path / "few", db, "prototype", "--few-shot", "--shuffle-control", "--split", "stratified")
    assert call("probes", "rerun", tmp_path / "nested", "--json").json["reproduced"]
    assert call("probes", "rerun", tmp_path / "few", "--json").json["reproduced"]


def test_a_rerun_uses_the_old_version_and_says_what_changed_where_it_cannot(tmp_path):
    db = make_cohort(tmp_path / "db", patients=80)
    fitted(tmp_path / "out", db, "linear")
    vectors, metadata = rows_of(90)
    store = EmbeddingStore.open(db)
    add_shard(store, "second", [f"new{i}" for i in range(30)], vectors[240:], metadata[240:])
    grown = call("probes", "rerun", tmp_path / "out", "--json")
    assert (grown.code, grown.json["reproduced"]) == (0, True)
    kept = (tmp_path / "out" / "result.json").read_text()
    moved = json.loads(kept)
    moved["source"]["version"] = moved["request"]["version"] = 999
    (tmp_path / "out" / "result.json").write_text(json.dumps(moved))
    lost = call("probes", "rerun", tmp_path / "out", "--json")
    assert (lost.code, lost.json["reproduced"]) == (1, False)
    assert any("version 999 of table t is gone" in text for text in lost.json["changed"])
    assert "the split: rows or their parts differ" in lost.json["changed"]
    assert lost.json["differences"]


def test_a_rerun_on_a_table_made_anew_under_the_old_name_and_version_says_so(tmp_path):
    """The version number is there again, with other vectors: only the table's identity tells."""
    db = make_cohort(tmp_path / "db", patients=80)
    fitted(tmp_path / "out", db, "linear")
    version = EmbeddingStore.open(db).version
    shutil.rmtree(tmp_path / "db")
    make_cohort(tmp_path / "db", patients=80, seed=1)
    assert EmbeddingStore.open(db).version == version
    anew = call("probes", "rerun", tmp_path / "out", "--json")
    assert (anew.code, anew.json["reproduced"]) == (1, False)
    assert any("dropped and created again" in text for text in anew.json["changed"])


def test_a_rerun_of_a_result_that_names_no_identity_says_what_it_cannot_know(tmp_path):
    db = make_cohort(tmp_path / "db", patients=80)
    fitted(tmp_path / "out", db, "linear")
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    del result["source"]["identity"], result["source"]["commit"]
    (tmp_path / "out" / "result.json").write_text(json.dumps(result | {"format": 1}))
    done = call("probes", "rerun", tmp_path / "out", "--json")
    assert (done.code, done.json["reproduced"]) == (0, True)
    assert any("by number only" in text for text in done.json["changed"])


def test_a_rerun_notices_a_changed_number_and_a_changed_weight(db, tmp_path):
    fitted(tmp_path, db, "linear")
    bundle = read_bundle(tmp_path)
    text = (tmp_path / "result.json").read_text()
    result = json.loads(text)
    result["test"]["metrics"]["auc_macro"]["value"] += 1e-8
    (tmp_path / "result.json").write_text(json.dumps(result))
    done = call("probes", "rerun", tmp_path, "--json")
    assert done.code == 1
    assert [d.split(":")[0] for d in done.json["differences"]] == ["test.metrics.auc_macro.value"]
    (tmp_path / "result.json").write_text(text)
    from probes.runs.bundle import write_bundle

    weights = bundle.model.arrays["W"] * (1 + 1e-5)
    write_bundle(replace(bundle, model=replace(bundle.model, arrays=bundle.model.arrays | {"W": weights})), tmp_path)
    done = call("probes", "rerun", tmp_path, "--json")
    assert (done.code, done.json["differences"]) == (1, [])
    assert done.json["weights_difference"] > 1e-6


def test_a_bundle_holds_what_a_reader_needs_and_no_code(db, tmp_path):
    found = fitted(tmp_path, db, "linear", "--scaling", "zscore", "--seed", "3", "--salt", "x")
    facts = json.loads((tmp_path / "probe.json").read_text())
    assert facts["classes"] == ["effusion", "mass", "none"]
    assert facts["source"] == found["source"]
    assert (facts["request"]["seed"], facts["request"]["salt"]) == (3, "x")
    assert facts["split_sha256"] == found["split"]["sha256"]
    assert facts["metrics"] == found["test"]["metrics"]
    assert facts["thresholds"] == {o["column"]: o["threshold"] for o in found["operating"]}
    assert (facts["parameter"], facts["value"], facts["scaler"]) == ("C", found["selection"]["value"], "zscore")
    assert facts["temperature"] == found["temperature"]
    assert set(facts["packages"]) >= {"scikit-learn", "numpy"}
    with np.load(tmp_path / "weights.npz", allow_pickle=False) as arrays:
        assert arrays["model.W"].shape == (3, 12)
        assert arrays["scaler.sd"].shape == (12,)
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "predictions.parquet", "probe.json", "report.html", "result.json", "weights.npz",
    ]  # fmt: skip


def test_another_encoders_table_is_refused(db, tmp_path):
    fitted(tmp_path / "out", db, "linear")
    vectors, metadata = rows_of(10)
    spec = replace(spec_for(vectors.shape[1]), weights="random:1")
    other = EmbeddingStore.create(str(tmp_path / "other"), "t", spec)
    add_shard(other, "first", [f"k{i}" for i in range(30)], vectors, metadata)
    done = call("probes", "predict", tmp_path / "out", tmp_path / "other")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert spec.fingerprint in done.err
    images = call(
        "probes", "predict", tmp_path / "out", tmp_path / "other", "--images", tmp_path / "out" / "probe.json"
    )
    assert (images.code, images.err.count("\n")) == (1, 1)


def test_damaged_bundles_are_an_error_in_one_line(db, tmp_path):
    fitted(tmp_path / "out", db, "linear")
    for name, damage in (("probe.json", b"{"), ("weights.npz", b"PK"), ("probe.json", b'{"format": 9}')):
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "out", folder)
        (folder / name).write_bytes(damage)
        done = call("probes", "predict", folder, db)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1), (name, damage, done.err)
    (tmp_path / "empty").mkdir()
    assert "holds no probe" in call("probes", "predict", tmp_path / "empty", db).err


def test_a_forest_is_read_only_where_every_row_reaches_a_leaf_of_each_tree(db, tmp_path):
    fitted(tmp_path, db, "forest")
    with np.load(tmp_path / "weights.npz") as stored:
        arrays = dict(stored)
    assert read_bundle(tmp_path).facts.kind == "forest"
    n, dim = len(arrays["model.left"]), len(arrays["scaler.mean"])
    inner = np.flatnonzero(arrays["model.left"] >= 0)
    last, leaf = inner[-1], np.flatnonzero(arrays["model.left"] < 0)[0]
    for name, at, value in (
        ("left", last, n), ("right", last, -1), ("right", last, last), ("left", last, inner[0]), ("feature", last, dim),
        ("feature", last, -1), ("threshold", last, np.nan), ("roots", -1, n), ("roots", -1, -1),
        ("shares", leaf, np.nan), ("shares", leaf, 0), ("left", slice(1), 0),
    ):  # fmt: skip
        changed = arrays[f"model.{name}"].copy()
        changed[at] = value
        np.savez(tmp_path / "weights.npz", **(arrays | {f"model.{name}": changed}))
        with pytest.raises(ProbeError, match="damaged probe"):
            read_bundle(tmp_path)
    np.savez(tmp_path / "weights.npz", **(arrays | {"model.left": arrays["model.left"][:-1]}))
    with pytest.raises(ProbeError, match="damaged probe"):
        read_bundle(tmp_path)


def test_arrays_that_need_pickle_are_never_loaded(db, tmp_path):
    fitted(tmp_path, db, "linear")
    np.savez(tmp_path / "weights.npz", **{"model.W": np.array([{"a": 1}], dtype=object)})
    done = call("probes", "predict", tmp_path, db)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "damaged probe" in done.err


def test_predictions_become_columns_that_can_be_asked_for(tmp_path):
    db = make_cohort(tmp_path / "db", patients=80)
    fitted(tmp_path / "out", db, "linear")
    done = call("probes", "predict", tmp_path / "out", db, "--where", "site = 'A'", "--write", "find_1", "--json")
    chosen = done.json["rows"]
    assert done.json["written"] == len(chosen) > 0
    store = EmbeddingStore.open(db)
    table = store.vectors(None, ["key", "site", "pred_find_1", "pred_find_1_p_mass"]).columns.to_pylist()
    by_key = {row["key"]: row for row in table}
    for row in chosen:
        assert by_key[row["key"]]["pred_find_1"] == row["called"]
        assert by_key[row["key"]]["pred_find_1_p_mass"] == pytest.approx(row["probabilities"]["mass"])
    assert all(row["pred_find_1"] is None for row in table if row["site"] == "B")
    assert store.count("pred_find_1 = 'mass'") == sum(row["called"] == "mass" for row in chosen)
    assert call("probes", "rerun", tmp_path / "out", "--json").json["reproduced"]  # columns change no old version


@pytest.mark.parametrize("name", ["find-1", "a b", "", "größe"])
def test_a_name_that_is_no_plain_column_name_is_refused_before_anything_is_written(db, tmp_path, name):
    fitted(tmp_path, db, "prototype")
    before = EmbeddingStore.open(db).columns()
    done = call("probes", "predict", tmp_path, db, "--write", name)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert f"{name!r} is not a plain column name" in done.err
    assert EmbeddingStore.open(db).columns() == before


def test_class_names_that_differ_in_signs_only_keep_a_column_each(tmp_path):
    db = make_cohort(tmp_path / "db", patients=80)
    store = EmbeddingStore.open(db)
    import pyarrow as pa

    rows = store.vectors(None, ["key", "ill"]).columns.to_pydict()
    add_columns(store, pa.table({"key": rows["key"], "sign": [("-", "+")[v] for v in rows["ill"]]}))
    probe("linear", db, "--label", "sign", "--group", "patient", "--out", tmp_path / "out")
    call("probes", "predict", tmp_path / "out", db, "--write", "s")
    written = EmbeddingStore.open(db).vectors(None, ["pred_s_p_value", "pred_s_p_value_"]).columns.to_pydict()
    assert np.add(written["pred_s_p_value"], written["pred_s_p_value_"]) == pytest.approx(np.ones(240))


def test_a_knn_bundle_never_lets_a_row_or_its_patient_vote_for_itself(tmp_path):
    db = make_cohort(tmp_path / "db", patients=80)
    for group in ("patient", "none"):
        out = tmp_path / group
        options = ("--label", "ill", "--group", group, "-k", "1", "--out", out)
        probe("knn", db, *options)
        truth = EmbeddingStore.open(db).vectors(None, ["key", "ill"]).columns.to_pydict()
        rows = call("probes", "predict", out, db, "--json").json["rows"]
        right = np.mean([int(r["called"]) == v for r, v in zip(rows, truth["ill"], strict=True)])
        assert right < 0.95, group  # each row is its own nearest: 1.0 if it voted


def test_multilabel_bundles_call_every_label_that_reaches_its_operating_point(db, tmp_path):
    found = probe("linear", db, "--label", "a,b,c", "--multilabel", "--group", "patient", "--out", tmp_path)
    done = call("probes", "predict", tmp_path, db, "--threshold", "b=0.25", "--json")
    limits = {o["column"]: o["threshold"] for o in found["operating"]} | {"b": 0.25}
    assert done.json["decided_by"]["thresholds"] == pytest.approx(limits)
    for row in done.json["rows"]:
        assert row["above"] == [name for name, p in row["probabilities"].items() if p >= limits[name]]
        assert row["called"] == ", ".join(row["above"])
    assert len({row["called"] for row in done.json["rows"]}) > 2


@pytest.mark.case("U11")
def test_two_classes_are_decided_at_the_operating_point_that_the_result_reports(db, tmp_path):
    found = probe("linear", db, "--label", "ill", "--group", "patient", "--specificity", "0.6", "--out", tmp_path)
    (point,) = found["operating"]
    done = call("probes", "predict", tmp_path, db, "--json")
    rows = done.json["rows"]
    assert done.json["decided_by"]["thresholds"] == {"1": pytest.approx(point["threshold"])}
    assert {row["called"] for row in rows} == {"0", "1"}
    assert all((row["called"] == "1") == (row["probabilities"]["1"] >= point["threshold"]) for row in rows)
    called = {row["key"]: row["called"] for row in rows}
    test = pq.read_table(tmp_path / "predictions.parquet").to_pylist()
    right = [called[row["key"]] == "1" for row in test if row["true"] == "1"]
    assert np.mean(right) == pytest.approx(point["rates"]["sensitivity"]["value"])
    plain = call("probes", "predict", tmp_path, db)
    assert f"positive: 1 at p ≥ {point['threshold']:.4g} (operating point for specificity ≥ 0.6)" in plain.err
    half = call("probes", "predict", tmp_path, db, "--threshold", "0.5", "--json").json
    assert half["decided_by"]["sources"] == {"1": "as asked"}
    assert all((row["called"] == "1") == (row["probabilities"]["1"] >= 0.5) for row in half["rows"])


@pytest.mark.case("U11")
def test_of_several_classes_the_most_probable_is_called_and_those_above_their_threshold_are_listed(db, tmp_path):
    fitted(tmp_path, db, "linear")
    answer = call("probes", "predict", tmp_path, db, "--threshold", "mass=0.0", "--json").json
    limits = answer["decided_by"]["thresholds"]
    for row in answer["rows"]:
        assert row["called"] == max(row["probabilities"], key=row["probabilities"].get)
        assert row["above"] == [name for name, p in row["probabilities"].items() if p >= limits[name]]
    assert all("mass" in row["above"] for row in answer["rows"])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("0.3", "is for several classes. Give CLASS=0.3"),
        ("tumour=0.3", "no class 'tumour' that is decided by one"),
        ("mass=1.3", "'1.3' is not a probability"),
        ("mass=much", "'much' is not a probability"),
    ],
)
def test_a_threshold_that_decides_nothing_is_refused_in_one_line(db, tmp_path, asked, words):
    fitted(tmp_path, db, "linear")
    done = call("probes", "predict", tmp_path, db, "--threshold", asked)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert words in done.err


def test_probes_never_load_torch_and_new_images_are_embedded_by_another_process(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(40):
        pixels = rng.integers(0, 120, (64, 64, 3)).astype(np.uint8)
        pixels[..., i % 2] += 120  # red or green
        Image.fromarray(pixels).save(folder / f"p{i:02d}.png")
    labels = "\n".join(
        ["file,colour,patient", *(f"p{i:02d}.png,{('red', 'green')[i % 2]},{i // 2}" for i in range(40))]
    )
    (folder / "labels.csv").write_text(labels + "\n")
    db, out = str(tmp_path / "db"), tmp_path / "out"
    indexer = [sys.executable, "-m", "indexer"]
    subprocess.run([*indexer, "pack", folder, tmp_path / "shards", "--csv", folder / "labels.csv"], check=True)
    subprocess.run([*indexer, "index", tmp_path / "shards", db, "--device", "cpu"], check=True)
    probe("linear", db, "--label", "colour", "--group", "patient", "--split", "stratified", "--out", out)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    code = (
        "import sys; sys.argv = ['probes', *sys.argv[1:]]\n"
        "from probes.cli import group\n"
        "group.main(standalone_mode=False)\n"
        "print(sorted(m for m in ('torch', 'open_clip', 'webdataset', 'timm', 'torchvision') if m in sys.modules),"
        " file=sys.stderr)\n"
    )
    images = [str(folder / "p00.png"), str(folder / "p01.png"), str(tmp_path / "broken.png")]
    given = [a for image in images for a in ("--images", image)]
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", str(out), db, *given, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == "[]", done.stderr
    answer = json.loads(done.stdout)
    assert [row["called"] for row in answer["rows"]] == ["red", "green"]
    assert len(answer["unread"]) == 1
    stored = {r["key"]: r["probabilities"] for r in call("probes", "predict", out, db, "--json").json["rows"]}
    near = [min(abs(row["probabilities"]["red"] - p["red"]) for p in stored.values()) for row in answer["rows"]]
    assert max(near) < 1e-3  # the same pictures, embedded again in another batch
