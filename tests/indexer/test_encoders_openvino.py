"""The second CPU backend: the libraries' own vectors, a fingerprint of its own, no word to anybody."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from importlib.util import find_spec

import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from indexer.cores import cores
from indexer.encoders import load, load_spec, precision_check
from indexer.errors import EncoderError, EncoderMismatch
from tests.indexer.models import clip_directory, lowest_cosine, pictures, squares

if find_spec("openvino") is None:  # not by importing it: that would write its telemetry's settings into the home folder
    pytest.skip("the openvino extra is not installed", allow_module_level=True)

SMALL = "timm:test_vit"


def open_clip_reference(folder):
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return lambda images: model.eval().encode_image(torch.stack([transform(i) for i in images]))


def assert_same(name, reference, *, weights=None):
    images = pictures()
    with torch.inference_mode():
        wanted = reference(images).float().numpy()
    for precision, least in (("fp32", 0.9999), ("bf16", 0.999)):
        ours = load(name, weights=weights, precision=precision, device="openvino")
        vectors = ours.embed(squares(images, ours.spec))
        assert lowest_cosine(vectors, wanted) >= least
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), np.linalg.norm(wanted, axis=1), rtol=0.01)


@pytest.mark.parametrize(
    "config",
    [{"quick_gelu": True}, {"vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "head_width": 32}}],
    ids=["vit", "resnet"],
)
def test_open_clip_models_equal_open_clip(config, tmp_path):
    folder = clip_directory(tmp_path / "m", **config)
    assert_same(f"local-dir:{folder}", open_clip_reference(folder))


def test_a_torchvision_resnet_equals_torchvision(tmp_path):
    torch.manual_seed(3)
    theirs = torchvision.models.resnet18()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    theirs.fc = torch.nn.Identity()
    transform = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    assert_same(
        "resnet18",
        lambda images: theirs.eval()(torch.stack([transform(i) for i in images])),
        weights=str(tmp_path / "w.pth"),
    )


def test_a_timm_model_equals_timm(tmp_path):
    torch.manual_seed(4)
    theirs = timm.create_model("test_vit")
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    theirs.reset_classifier(0)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=theirs))
    assert_same(
        SMALL,
        lambda images: theirs.eval()(torch.stack([transform(i) for i in images])),
        weights=str(tmp_path / "w.safetensors"),
    )


def noise(spec, n):
    size = spec.pixels.size
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def test_many_callers_and_short_batches_get_the_same_bits_as_one_caller_and_full_ones():
    encoder = load(SMALL, weights="random", device="openvino")
    batch = noise(encoder.spec, 2 * encoder.batch_size + 3)
    wanted = encoder.embed(batch)
    np.testing.assert_array_equal(encoder.embed(batch[:3]), wanted[:3])
    np.testing.assert_array_equal(encoder.embed(batch[-3:]), wanted[-3:])
    got = {}
    threads = [threading.Thread(target=lambda i=i: got.update({i: encoder.embed(batch)})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        np.testing.assert_array_equal(got[i], wanted)


def test_its_streams_use_each_core_once():
    encoder = load(SMALL, weights="random", device="openvino")
    compiled = encoder._backend._compiled
    assert encoder.workers == cores()
    assert int(compiled.get_property("NUM_STREAMS")) == cores()
    assert int(compiled.get_property("INFERENCE_NUM_THREADS")) == cores()


def test_the_backend_is_in_the_fingerprint_and_a_table_gets_its_own_again():
    ours, torchs = (load(SMALL, weights="random", device=d) for d in ("openvino", "cpu"))
    assert ours.spec.fingerprint != torchs.spec.fingerprint
    batch = noise(ours.spec, 4)
    again = load_spec(ours.spec, device="auto")
    np.testing.assert_array_equal(again.embed(batch), ours.embed(batch))
    with pytest.raises(EncoderMismatch, match="backend torch / openvino"):
        load_spec(torchs.spec, device="openvino")
    assert precision_check(ours, batch) > 0.999


def test_a_table_of_the_backend_on_a_gpu_is_refused(monkeypatch):
    spec = load(SMALL, weights="random", device="openvino").spec
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(EncoderError, match="computed by OpenVINO on a CPU"):
        load_spec(spec, device="cuda")


def test_fp16_and_a_missing_package_are_refused_with_the_way_out(monkeypatch):
    with pytest.raises(EncoderError, match="bf16 or fp32, not fp16"):
        load(SMALL, weights="random", device="openvino", precision="fp16")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EncoderError, match=r"embedding-indexer\[openvino\].*--device cpu"):
        load(SMALL, weights="random", device="openvino")


def test_text_of_its_encoder_is_torchs(tmp_path):
    folder = clip_directory(tmp_path / "m")
    ours, torchs = (load(f"local-dir:{folder}", device=d) for d in ("openvino", "cpu"))
    np.testing.assert_array_equal(ours.embed_text(["a cat"]), torchs.embed_text(["a cat"]))


@pytest.mark.parametrize("crashes_are_traced", [True, False])  # its handler has a signal stack of its own
@pytest.mark.parametrize("encoders_go", ["as they came", "in another thread"])
def test_ctrl_c_is_heard_after_encoders_went(encoders_go, crashes_are_traced):
    code = (
        "import faulthandler, os, signal, threading\n"
        "from indexer.encoders import load\n"
        f"if {crashes_are_traced}: faulthandler.enable()\n"
        f"kept = [load({SMALL!r}, weights='random', device='openvino') for _ in range(2)]\n"
        f"if {encoders_go == 'as they came'}:\n"
        "    kept.pop(0)\n"
        "    kept.pop(0)\n"
        "else:\n"
        "    thread = threading.Thread(target=kept.clear)\n"
        "    thread.start()\n"
        "    thread.join()\n"
        "signal.signal(signal.SIGINT, lambda *_: print('heard'))\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


def test_nothing_is_reported_over_the_network_or_written_into_the_home_directory(tmp_path):
    code = (
        "import socket, sys, threading\n"
        "asked = []\n"
        "def refuse(*a): asked.append(a); raise OSError\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from indexer.encoders import load\n"
        f"load({SMALL!r}, weights='random', device='openvino')\n"
        "print(asked, sys.modules['openvino_telemetry'])\n"
    )
    home = os.environ | {"HOME": str(tmp_path), "CI": ""}  # a CI machine would be spared
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=home)
    assert done.stdout.strip() == "[] None"
    assert not (tmp_path / "intel").exists()
