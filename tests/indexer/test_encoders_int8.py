"""int8: calibrated on the table's own images, kept beside it, refused where it would move the neighbours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from indexer.encoders import load, load_spec
from indexer.encoders.backends.openvino_cpu import OpenVinoBackend
from indexer.encoders.families.weights import parse
from indexer.encoders.int8 import calibrate, files
from indexer.encoders.int8.agreement import agreement
from indexer.encoders.loading import find
from indexer.errors import EncoderError, WeightsNotFound
from indexer.store.table import EmbeddingStore
from indexer.types import EncoderSpec
from tests.commands import call

if find_spec("nncf") is None or find_spec("openvino") is None:
    pytest.skip("the int8 extra is not installed", allow_module_level=True)

ENCODER = ("--encoder", "timm:test_efficientnet", "--weights", "random")
IMAGES = 160


def gratings(folder: Path, n: int, name: str = "g", seed: int = 0) -> Path:
    """Coloured gratings of all frequencies and directions: pictures that a random network tells apart."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    y, x = np.mgrid[0:96, 0:96] / 96
    for i in range(n):
        angle, cycles, phase = rng.uniform(0, np.pi), rng.uniform(1, 12), rng.uniform(0, 6)
        wave = 0.5 + 0.5 * np.sin(2 * np.pi * cycles * (x * np.cos(angle) + y * np.sin(angle)) + phase)
        colours = rng.integers(0, 256, (2, 3))
        picture = wave[..., None] * colours[0] + (1 - wave[..., None]) * colours[1]
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{name}{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("int8")
    gratings(root / "images", IMAGES)
    done = call("indexer", "index", root / "images", root / "db", *ENCODER, "--precision", "int8")
    assert done.code == 0, done.err
    return root, done


def test_what_nncf_and_torch_remark_is_not_said(made, tmp_path):
    command = [sys.executable, "-m", "indexer", "index", made[0] / "images", tmp_path / "db", *ENCODER]
    toolkit = os.environ | {"CUDA_HOME": str(tmp_path)}  # without a GPU: of this torch remarks
    said = subprocess.run([*command, "--precision", "int8"], capture_output=True, text=True, check=True, env=toolkit)
    lines = [line.split()[0] for line in said.stderr.splitlines() if line.strip()]
    assert lines == ["quantising", "int8"], said.stderr


def test_signals_are_heard_while_a_network_is_calibrated_and_after_what_nncf_compiled_went(made, tmp_path):
    code = (
        "import signal, threading\n"
        "import nncf, openvino\n"
        "from tests.commands import call\n"
        "kept, heard, quantize = [], [], nncf.quantize\n"
        "def keeping(graph, *given, **named):\n"  # as objects do that refer to each other, until they are collected
        "    kept.append(openvino.Core().compile_model(graph, 'CPU'))\n"
        "    return quantize(graph, *given, **named)\n"
        "nncf.quantize = keeping\n"
        "signal.signal(signal.SIGALRM, lambda *_: heard.append(1))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)\n"
        f"arguments = {[str(made[0] / 'images'), str(tmp_path / 'db'), *ENCODER, '--precision', 'int8']!r}\n"
        "done = call('indexer', 'index', *arguments)\n"
        "assert done.code == 0 and kept, done.err\n"
        "thread = threading.Thread(target=kept.clear)\n"
        "thread.start()\n"
        "thread.join()\n"
        "before = len(heard)\n"
        "while len(heard) == before: signal.pause()\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "print(before > 100)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["True"]), done.stderr


def copied(made, tmp_path: Path) -> Path:
    shutil.copytree(made[0] / "db", tmp_path / "db")
    return tmp_path / "db"


def squares(root: Path, spec: EncoderSpec) -> np.ndarray:
    from indexer.pixels import decode

    files = sorted((root / "images").glob("*.png"))
    return np.stack([next(decode(f.read_bytes(), ".png", spec.pixels)).pixels for f in files])


def test_the_rows_are_the_vectors_of_the_kept_network_and_close_to_fp32(made):
    import openvino

    root, done = made
    store = EmbeddingStore.open(str(root / "db"))
    pictures = squares(root, store.spec)
    rows = store.vectors(columns=["key"])
    stored = np.asarray(rows.vectors, np.float64)[np.argsort(rows.columns.column("key").to_pylist())]
    (kept,) = (root / "db").glob("*.int8/*/network.xml")
    network = openvino.Core().compile_model(str(kept), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    theirs = np.concatenate([network([pictures[i : i + 16]])[0] for i in range(0, IMAGES, 16)]).astype(np.float64)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    assert np.einsum("ij,ij->i", stored, theirs).min() > 0.9995
    fp32 = load("timm:test_efficientnet", weights="random", precision="fp32").embed(pictures).astype(np.float64)
    fp32 /= np.linalg.norm(fp32, axis=1, keepdims=True)
    assert np.median(np.einsum("ij,ij->i", stored, fp32)) >= calibrate.COSINE_FLOOR
    assert not np.allclose(stored, fp32, atol=1e-4)  # it is another arithmetic indeed
    assert "of the 10 nearest neighbours stay" in done.err
    assert "layers in int8" in done.err


def test_more_images_get_the_network_that_the_table_was_made_with(made, tmp_path):
    db = copied(made, tmp_path)
    gratings(tmp_path / "more", 5, "h", seed=1)
    done = call("indexer", "index", tmp_path / "more", db, *ENCODER, "--precision", "int8", "--json")
    assert done.code == 0, done.err
    assert done.json["embedded"] == 5
    assert done.json["fingerprint"] == EmbeddingStore.open(str(made[0] / "db")).spec.fingerprint
    assert len(list(db.glob("*.int8/*"))) == 1


def test_a_query_image_is_embedded_in_int8_too(made):
    root, _ = made
    found = call("indexer", "search", root / "db", root / "images" / "g007.png", "-k", "1", "--json")
    assert found.code == 0, found.err
    (hit,) = found.json["queries"][0]["hits"]
    assert hit["key"] == "g007.png"
    assert hit["score"] > 0.9995


def test_networks_that_their_library_builds_in_train_mode_embed_too(made):
    """As open_clip does."""
    spec = EmbeddingStore.open(str(made[0] / "db")).spec
    towers = find(spec.name, parse("random")).build()
    towers.module.train()
    OpenVinoBackend(towers, spec, files.read(spec))
    assert not towers.module.training


def test_another_precision_is_another_encoder(made, tmp_path):
    db = copied(made, tmp_path)
    for precision, words in (("bf16", "precision int8 / bf16"), ("fp32", "precision int8 / fp32")):
        done = call("indexer", "index", made[0] / "images", db, *ENCODER, "--precision", precision)
        assert done.code == 1
        assert words in done.err
    plain = tmp_path / "plain"
    assert call("indexer", "index", made[0] / "images", plain, *ENCODER).code == 0
    done = call("indexer", "index", made[0] / "images", plain, *ENCODER, "--precision", "int8")
    assert done.code == 1
    assert "precision bf16 / int8" in done.err


@pytest.mark.parametrize("fault", ["gone", "cut", "altered"])
def test_a_network_that_is_not_the_tables_is_refused(made, tmp_path, fault):
    db = copied(made, tmp_path)
    (weights,) = db.glob("*.int8/*/network.bin")
    if fault == "gone":
        shutil.rmtree(weights.parent)
    else:
        data = bytearray(weights.read_bytes())
        data[len(data) // 2] ^= 255
        weights.write_bytes(data[:-9] if fault == "cut" else data)
    with pytest.raises(WeightsNotFound, match=r"quantised network.*new table"):
        load_spec(EmbeddingStore.open(str(db)).spec)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (lambda op, x: op.broadcast(op.convert(op.reduce_max(x, [0, 1, 2, 3]), "f32"), [1 << 38]), ""),
        (lambda op, x: op.reduce_mean(op.convert(x, "f32"), [1, 2]), r"makes \[16, 3\] numbers in place of"),
    ],
)
def test_a_network_handed_over_with_its_hash_is_first_run_where_it_can_do_no_harm(made, tmp_path, network, words):
    """The first asks for more memory than the child may take."""
    import openvino
    from openvino import opset13

    spec = EmbeddingStore.open(str(made[0] / "db")).spec
    size = spec.pixels.size
    pictures = opset13.parameter([16, size, size, 3], np.uint8)
    digest, folder = files.write(openvino.Model([network(opset13, pictures)], [pictures]), {}, tmp_path / "n")
    with pytest.raises(EncoderError, match=f"cannot be used.*{words}.*new table"):
        load_spec(replace(spec, calibration=digest, network=str(folder.parent)))


def test_too_far_from_fp32_too_few_images_or_a_processor_without_int8_create_nothing(made, tmp_path, monkeypatch):
    command = ("indexer", "index", made[0] / "images", tmp_path / "db", *ENCODER, "--precision", "int8")
    monkeypatch.setattr(calibrate, "has_int8_products", lambda: False)
    done = call(*command)
    assert done.code == 1
    assert "VNNI" in done.err
    monkeypatch.undo()
    monkeypatch.setattr(calibrate, "quantised_but_sensitive", lambda graph, *_, **__: graph)
    monkeypatch.setattr(calibrate, "RETENTION_FLOOR", 1.01)
    done = call(*command)
    assert done.code == 1
    assert "too far" in done.err.splitlines()[-1]
    few = gratings(tmp_path / "few", 20)
    done = call("indexer", "index", few, tmp_path / "db", *ENCODER, "--precision", "int8")
    assert done.code == 1
    assert "at least 128 images, and 20" in done.err
    assert not (tmp_path / "db").exists()


def test_a_gpu_and_a_missing_package_are_refused_with_the_way_out(made, tmp_path, monkeypatch):
    command = ("indexer", "index", made[0] / "images", tmp_path / "db", *ENCODER, "--precision", "int8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    done = call(*command, "--device", "cuda")
    assert done.code == 1
    assert "int8 runs on the CPU" in done.err
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "nncf", None)
    done = call(*command)
    assert done.code == 1
    assert "embedding-indexer[int8]" in done.err


@given(st.lists(st.integers(1, 8), min_size=2, max_size=80))
def test_no_image_has_pictures_that_calibrate_and_others_that_measure(parts):
    images = np.repeat(np.arange(len(parts)) * 3, parts)
    first = calibrate.halved(images)
    assert not set(images[first]) & set(images[~first])
    assert abs(int(first.sum()) - int((~first).sum())) <= 8
    if set(parts) == {1}:
        assert (first == (np.arange(len(parts)) % 2 == 0)).all()


@pytest.mark.parametrize("around", [0.0, 70.0])  # of an encoder whose vectors lie close together: cosines of .9998
def test_agreement_is_the_cosine_and_the_share_of_common_neighbours(around):
    rng = np.random.default_rng(5)
    a = (around + rng.standard_normal((60, 24))).astype(np.float32)
    b = a + 0.4 * rng.standard_normal(a.shape).astype(np.float32)
    found = agreement(b, a)

    def neighbours(rows):
        search = NearestNeighbors(n_neighbors=11, metric="cosine").fit(rows)
        return [set(near) - {i} for i, near in enumerate(search.kneighbors(rows, return_distance=False).tolist())]

    wanted = np.mean([len(x & y) / 10 for x, y in zip(neighbours(a), neighbours(b), strict=True)])
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert found.images == 60
    assert found.retention == pytest.approx(wanted, abs=0.01)  # stored rows are float16: a tie may turn
    assert found.lowest_cosine == pytest.approx(cosines.min(), abs=1e-3)
    assert found.median_cosine == pytest.approx(np.median(cosines), abs=1e-3)
