"""`probes benchmark`: every recipe on a small tree with the layout and the column names of the data set."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from html import escape

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from indexer.errors import ProbeError
from probes.benchmark import run
from probes.benchmark.page import NONE
from probes.benchmark.recipes import RECIPES
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.pictures import deep, dicom

N = 60
ENCODER = "efficientnet-lite0"  # of the one run with an encoder of its own


def image(path, shade, seed):
    """A grey picture of this shade, with noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 25, (40, 40, 3))
    if path.suffix == ".dcm":
        grey = deep(24, 24, seed=seed)
        grey[:, : shade // 8] = 4000  # a band whose width is the class: the grey values themselves are scaled
        path.write_bytes(dicom(grey, SOPInstanceUID=f"1.2.3.{seed}"))
    else:
        Image.fromarray(np.clip(shade + noise, 0, 255).astype(np.uint8)).save(path)


def table(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def shade(label):
    return 40 + 50 * label


def aptos(root):
    rows = [{"id_code": f"{i:012x}", "diagnosis": i % 4} for i in range(N)]
    for i, row in enumerate(rows):
        image(root / "train_images" / f"{row['id_code']}.png", shade(row["diagnosis"]), i)
    table(root / "train.csv", rows)


def messidor(root):
    names = [f"2005{i:04d}_0100_PP.png" if i % 2 else f"IM{i:06d}.JPG" for i in range(N)]
    for i, name in enumerate(names):
        image(root / "images" / name, shade(i % 3), i)
    table(root / "messidor_data.csv", [
        {"image_id": name.replace("JPG", "jpg"), "adjudicated_dr_grade": i % 3, "adjudicated_dme": 0,
         "adjudicated_gradable": 1} for i, name in enumerate(names)
    ])  # fmt: skip


def cbis_ddsm(root):
    words, rows = ("BENIGN_WITHOUT_CALLBACK", "BENIGN", "MALIGNANT"), []
    for i in range(N):
        path = f"Mass-Training_P_{i:05d}_LEFT_CC/1.3.6.{i}/1.3.7.{i}/000000.dcm"
        image(root / "CBIS-DDSM" / path, shade(i % 3), i)
        facts = {"patient_id": f"P_{i:05d}", "assessment": 3, "image file path": path}
        rows += [{**facts, "pathology": words[i % 3]}, {**facts, "pathology": words[0]}]
    for name, part in (("train", rows[: N + 20]), ("test", rows[N + 20 :])):
        table(root / f"mass_case_description_{name}_set.csv", part)


def ham10000(root):
    rows = [
        {"lesion_id": f"HAM_{i // 2:07d}", "image_id": f"ISIC_{i:07d}", "dx": ("nv", "mel", "bkl")[i // 2 % 3],
         "dx_type": "histo", "age": 50, "sex": "male", "localization": "back"} for i in range(N)
    ]  # fmt: skip
    for i, row in enumerate(rows):
        folder = root / f"HAM10000_images_part_{1 + i % 2}"
        image(folder / f"{row['image_id']}.jpg", shade(i // 2 % 3), i)
    table(root / "HAM10000_metadata.csv", rows)


def nih_cxr14(root):
    findings = RECIPES["nih-cxr14"].probe[1].split(",")
    rows = []
    for i in range(2 * N):
        name = f"{i // 2:08d}_{i % 2:03d}.png"
        image(root / "images" / name, shade(i % 4), i)
        found = [f for j, f in enumerate(findings) if (i + j) % 4 == 0]
        rows.append({"Image Index": name, "Finding Labels": "|".join(found) or "No Finding", "Follow-up #": 0,
                     "Patient ID": i // 2, "Patient Age": 60, "Patient Gender": "M", "View Position": "PA",
                     "": ""})  # fmt: skip
    table(root / "Data_Entry_2017.csv", rows)


def chexpert(root):
    names = ("No Finding", "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
    rows = []
    for i in range(2 * N):
        path = f"train/patient{i // 2:05d}/study1/view{1 + i % 2}_frontal.jpg"
        image(root / path, shade(i // 2 % 4), i)
        values = {name: ("1.0", "0.0", "-1.0", "")[(i // 2 + j) % 4] for j, name in enumerate(names)}
        rows.append({"Path": f"CheXpert-v1.0-small/{path}", "Sex": "Male", "Age": 60, "Frontal/Lateral": "Frontal",
                     "AP/PA": "AP", **values})  # fmt: skip
    table(root / "train.csv", rows)


def medmnist(name):
    labels = 14 if name == "chestmnist" else 1

    def make(root):
        arrays, rng = {}, np.random.default_rng(0)
        for split, n in (("train", N), ("val", 24), ("test", 36)):
            truth = np.array([[(i // (1 + j)) % (2 if labels > 1 else 3) for j in range(labels)] for i in range(n)])
            grey = shade(truth[:, :1, None]) + rng.normal(0, 25, (n, 28, 28))
            arrays[f"{split}_images"] = np.clip(grey, 0, 255).astype(np.uint8)
            arrays[f"{split}_labels"] = truth.astype(np.uint8)
        np.savez_compressed(root / f"{name}.npz", **arrays)

    return make


TREES = {"aptos": aptos, "messidor": messidor, "cbis-ddsm": cbis_ddsm, "ham10000": ham10000, "nih-cxr14": nih_cxr14,
         "chexpert": chexpert} | {name: medmnist(name) for name in RECIPES if name.endswith("mnist")}  # fmt: skip
QUICK = ("ham10000", "breastmnist")


class Quick(FakeEncoder):
    def with_pixels(self, _):
        return self


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The commands run in this process, with an encoder that needs no weights; each name has its own vectors."""
    monkeypatch.setattr("indexer.encoders.load", lambda name, **_: Quick(seed=len(name)))
    monkeypatch.setattr("indexer.encoders.precision_check", lambda *_: 1.0)
    monkeypatch.setattr(run, "run_command", in_process)


def in_process(program, arguments):
    done = call(program, *arguments)
    if done.code:
        raise ProbeError(done.err)


def benchmark(name, root):
    (root / "data").mkdir()
    TREES[name](root / "data")
    return call("probes", "benchmark", name, "--data", root / "data", "--out", root / "out", "--device",
                "cpu", "--json")  # fmt: skip


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES]
)
def test_a_recipe_runs_on_the_layout_of_its_data_set_and_its_table_is_that_of_its_predictions(tmp_path, name):
    done = benchmark(name, tmp_path)
    assert done.code == 0, done.err
    assert [row["encoder"] for row in done.json["rows"]] == ["resnet50", "clip-vit-b32"]
    row = done.json["rows"][0]
    assert row["failed"] == 0
    assert row["images"] >= N
    assert row["seconds_embed"] > 0
    predicted = pq.read_table(tmp_path / "out" / "resnet50" / "predictions.parquet").to_pydict()
    assert len(predicted["key"]) == row["test_rows"] > 5
    classes = [column[2:-1] for column in predicted if column.startswith("p(")]
    areas = []
    for c in classes:
        truth = predicted.get(f"true({c})") or [t == c for t in predicted["true"]]
        known = [i for i, t in enumerate(truth) if t is not None]
        if len({truth[i] for i in known}) == 2:
            areas.append(roc_auc_score([truth[i] for i in known], [predicted[f"p({c})"][i] for i in known]))
    assert len(areas) > 1
    assert row["auc"]["value"] == pytest.approx(np.mean(areas))  # of two classes both areas are one
    assert row["auc"]["value"] > 0.7 or "multilabel" in " ".join(RECIPES[name].probe)
    page = (tmp_path / "out" / "benchmark.html").read_text()
    assert RECIPES[name].title in page
    assert all(escape(p.source) in page and escape(p.read) in page for p in RECIPES[name].published)
    assert (NONE in page) == (not RECIPES[name].published)


def test_a_benchmark_that_stopped_goes_on_where_it_was_and_one_of_another_recipe_is_refused(tmp_path):
    ham10000(tmp_path)
    seen = []

    def fails_at_labels(program, arguments):
        seen.append(arguments[0])
        steps = json.loads((tmp_path / "out" / run.STATE).read_text())["steps"]
        done = [name.split()[0] for name, step in steps.items() if step["done"]]
        assert done == ["index", "labels"][: ["index", "labels", "linear"].index(arguments[0])]  # if it is killed here
        if arguments[0] == "labels" and seen.count("labels") == 1:
            raise ProbeError("no power")
        in_process(program, arguments)

    for _ in range(2):
        try:
            found = run.run_benchmark("ham10000", tmp_path, tmp_path / "out", [ENCODER], call=fails_at_labels)
        except ProbeError as error:
            assert str(error) == "no power"  # noqa: PT017 - the first of two runs
    assert seen == ["index", "labels", "labels", "linear"]
    assert [command.split()[1] for command in found.commands] == ["index", "labels", "linear"]
    run.run_benchmark("ham10000", tmp_path, tmp_path / "out", [ENCODER], call=fails_at_labels)
    assert len(seen) == 4
    rows = (tmp_path / RECIPES["ham10000"].labels[0][0]).read_text()
    (tmp_path / RECIPES["ham10000"].labels[0][0]).write_text(rows + "\n")  # the labels changed: their probe is old
    run.run_benchmark("ham10000", tmp_path, tmp_path / "out", [ENCODER], call=fails_at_labels)
    assert seen[4:] == ["labels", "linear"]
    old = json.loads((tmp_path / "out" / run.STATE).read_text())
    old["steps"][f"probe {ENCODER}"]["seconds"] = 1e6
    (tmp_path / "out" / run.STATE).write_text(json.dumps(old))
    (tmp_path / RECIPES["ham10000"].labels[0][0]).write_text(rows)
    found = run.run_benchmark("ham10000", tmp_path, tmp_path / "out", [ENCODER], call=fails_at_labels)
    assert found.rows[0].seconds_probe < 1e6  # of the new run alone
    aptos(tmp_path)
    with pytest.raises(ProbeError, match="holds the benchmark ham10000"):
        run.run_benchmark("aptos", tmp_path, tmp_path / "out", [ENCODER])


def test_the_list_names_every_recipe_with_its_files_and_wrong_uses_write_nothing(tmp_path):
    listed = call("probes", "benchmark", "--list", "--json").json
    assert [row["recipe"] for row in listed] == list(RECIPES) == [name for name in RECIPES if name in TREES]
    assert all(row["files"] for row in listed)
    assert call("probes", "benchmark", "aptos").code == 2
    for name, words in (("nix", "there are: aptos"), ("aptos", "lacks train_images, train.csv")):
        done = call("probes", "benchmark", name, "--data", tmp_path, "--out", tmp_path / "out")
        assert (done.code, words in done.err, (tmp_path / "out").exists()) == (1, True, False)


@pytest.mark.slow
def test_a_benchmark_of_its_own_process_runs_the_commands_themselves(tmp_path):
    medmnist("breastmnist")(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "probes", "benchmark", "breastmnist", "--data", tmp_path, "--out", tmp_path / "out",
         "--encoder", ENCODER, "--json"], capture_output=True, text=True, check=True
    )  # fmt: skip
    assert json.loads(done.stdout)["rows"][0]["images"] == N + 60
