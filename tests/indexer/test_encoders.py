"""Names, weights and fingerprints: what is loaded, what is refused, and what an offline machine is told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from indexer.encoders import catalogue, load, load_spec
from indexer.encoders.families import hub, weights
from indexer.encoders.loading import find
from indexer.errors import EncoderError, EncoderMismatch, NoTextTower, UnknownEncoder, WeightsMismatch, WeightsNotFound
from indexer.types import PixelSpec
from tests.indexer.models import clip_directory

SMALL = "timm:test_vit"  # 0.4 million parameters


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(hub, "_offline", lambda: True)


def noise(spec, n, seed=0):
    size = spec.pixels.size
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def facts(name, wanted=None):
    return find(name, weights.parse(wanted)).spec


def quick_pairs():
    for model, tag in open_clip.list_pretrained():
        if open_clip.get_pretrained_cfg(model, tag).get("quick_gelu"):
            yield model.removesuffix("-quickgelu"), tag


@pytest.mark.parametrize(("model", "tag"), sorted(set(quick_pairs())))
def test_a_checkpoint_trained_with_quickgelu_gets_the_architecture_that_computes_it(model, tag):
    asked = f"open_clip:{model}"
    config = open_clip.get_model_config(facts(asked, tag).name.removeprefix("open_clip:"))
    assert config["quick_gelu"]
    if f"{model}-quickgelu" in open_clip.list_models():
        assert facts(asked, tag) == facts(f"{asked}-quickgelu", tag)


def test_the_tags_that_need_quickgelu_are_those_published_under_a_quickgelu_name():
    by_name = {(m.removesuffix("-quickgelu"), t) for m, t in open_clip.list_pretrained() if m.endswith("-quickgelu")}
    assert set(quick_pairs()) == by_name
    assert len(by_name) >= 27  # of open_clip 3.3


def test_quickgelu_is_in_the_network_exactly_where_the_name_says_so():
    def activations(name):
        module = load(name, weights="random", device="cpu")._towers.module
        return {type(m).__name__ for m in module.modules()} & {"QuickGELU", "GELU"}

    assert activations("ViT-S-32-alt") == {"GELU"}
    assert activations("ViT-S-32-alt-quickgelu") == {"QuickGELU"}


def test_a_quickgelu_name_with_weights_trained_with_gelu_is_refused():
    with pytest.raises(WeightsMismatch, match=r"trained with GELU.*Use ViT-B-32"):
        facts("open_clip:ViT-B-32-quickgelu", "laion2b_s34b_b79k")


def test_the_configuration_beside_a_weights_file_decides_its_activation(tmp_path):
    folder = clip_directory(tmp_path / "m", quick_gelu=True)
    assert (
        facts("open_clip:ViT-B-32", str(folder / "open_clip_model.safetensors")).name == "open_clip:ViT-B-32-quickgelu"
    )
    plain = clip_directory(tmp_path / "n", quick_gelu=False)
    with pytest.raises(WeightsMismatch, match="trained with GELU"):
        facts("open_clip:ViT-B-32-quickgelu", str(plain / "open_clip_model.safetensors"))


@pytest.mark.parametrize(
    ("name", "tag", "wanted"),
    [
        ("resnet50", "IMAGENET1K_V1", PixelSpec(224, 256, "bilinear", "crop")),
        ("resnet50", None, PixelSpec(224, 232, "bilinear", "crop")),
        ("clip-vit-b32", None, PixelSpec(224, 224, "bicubic", "crop")),
        ("siglip2-b16", None, PixelSpec(224, 224, "bicubic", "squash")),
        ("dinov2-b14", None, PixelSpec(518, 518, "bicubic", "crop")),
        ("timm:convnext_base.fb_in22k", None, PixelSpec(224, 256, "bicubic", "crop")),
        ("efficientnet-lite0", None, PixelSpec(224, 256, "bicubic", "crop")),
    ],
)
def test_each_checkpoint_is_preprocessed_as_its_authors_published(name, tag, wanted):
    assert facts(name, tag).pixels == wanted


@pytest.mark.parametrize("row", [r for r in catalogue() if not r.name.startswith("hf-hub:")], ids=lambda r: r.alias)
def test_the_catalogue_says_what_the_checkpoint_is(row):
    definition = find(row.alias, weights.parse(None))
    spec = definition.spec
    assert (spec.name, spec.dim, spec.pixels.size, definition.text) == (row.name, row.dim, row.size, row.text)
    assert spec.licence.lower() == row.licence.lower()
    assert row.weights in ("", spec.weights)


def test_a_library_s_own_names_are_understood_without_a_family():
    assert facts("ViT-B-32", "openai").name == "open_clip:ViT-B-32-quickgelu"
    assert facts("resnet18").name == "torchvision:resnet18"
    assert facts("vit_base_patch14_dinov2").name == "timm:vit_base_patch14_dinov2.lvd142m"


@pytest.mark.parametrize(
    ("name", "tag", "hint"),
    [
        ("clip-vit-b23", None, "clip-vit-b32"),
        ("resnet5", None, "resnet50"),
        ("open_clip:ViT-B-33", None, "ViT-B-32"),
        ("open_clip:ViT-B-32", "openia", "openai"),
        ("timm:resnet50.a9_in1k", None, r"resnet50\.a\d_in1k"),
        ("torchvision:resnet51", None, "resnet50"),
        ("resnet50", "IMAGENET_V1", "IMAGENET1K_V1"),
    ],
)
def test_an_unknown_name_or_tag_offers_the_nearest_ones(name, tag, hint):
    with pytest.raises(UnknownEncoder, match=hint):
        load(name, weights=tag)


def test_a_model_published_with_several_weights_asks_which():
    with pytest.raises(EncoderError, match=r"Choose with --weights: .*openai"):
        load("open_clip:ViT-B-32")


@pytest.mark.parametrize("name", ["clip-vit-b32", "resnet50", "dinov2-b14", "biomedclip", "hf-hub:nobody/nothing"])
def test_an_offline_machine_is_told_so_with_the_way_out(name, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsNotFound, match=r"not on this machine, and HF_HUB_OFFLINE is set.*--weights FILE"):
        load(name)


def test_a_hub_that_does_not_answer_is_asked_once_and_not_waited_for(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:  # connections are made, and nobody answers
        monkeypatch.setattr(hub, "_offline", lambda: False)
        monkeypatch.setattr(hub, "_endpoint", lambda: f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(hub, "PROBE_SECONDS", 0.2)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        for _ in range(2):
            with pytest.raises(WeightsNotFound, match="does not answer"):
                hub.fetch("nobody/nothing", ["model.safetensors"], download=True)
        server.setblocking(False)
        server.accept()[0].close()
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_hub_repository_in_the_cache_needs_no_network_and_is_named_by_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    clip_directory(repository / "snapshots" / commit)
    encoder = load("hf-hub:someone/tiny", device="cpu")
    assert (encoder.spec.name, encoder.spec.weights) == ("hf-hub:someone/tiny", f"revision:{commit}")
    again = load_spec(encoder.spec, device="cpu")
    batch = noise(encoder.spec, 2)
    np.testing.assert_array_equal(again.embed(batch), encoder.embed(batch))


def test_whatever_can_change_a_vector_changes_the_fingerprint():
    base = {"weights": "random", "precision": "fp32", "device": "cpu"}
    specs = [
        load(SMALL, **(base | change)).spec
        for change in ({}, {"weights": "random:1"}, {"precision": "bf16"}, {"fit": "pad"}, {"window": "minmax"})
    ]
    specs += [replace(specs[0], mean=(0.1, 0.2, 0.3)), replace(specs[0], pixels=replace(specs[0].pixels, size=112))]
    assert len({s.fingerprint for s in specs}) == len(specs)
    assert replace(specs[0], licence="MIT", source="/elsewhere").fingerprint == specs[0].fingerprint


def test_random_weights_come_from_their_seed_alone():
    torch.manual_seed(1)
    first = load(SMALL, weights="random:5", device="cpu")
    torch.manual_seed(2)
    drawn = torch.rand(1)
    second = load_spec(first.spec, device="cpu")
    torch.manual_seed(2)
    assert torch.rand(1) == drawn
    batch = noise(first.spec, 3)
    np.testing.assert_array_equal(first.embed(batch), second.embed(batch))
    assert first.spec.random
    assert np.abs(load(SMALL, weights="random:6", device="cpu").embed(batch) - first.embed(batch)).max() > 0.01


def test_a_tables_encoder_is_found_again_and_another_file_in_its_place_is_refused(tmp_path):
    file = tmp_path / "weights.safetensors"
    network = timm.create_model("test_vit")
    save_file(network.state_dict(), file)
    spec = load(SMALL, weights=str(file), device="cpu", fit="squash", window="40,400").spec
    assert load_spec(spec, device="cpu").spec.fingerprint == spec.fingerprint
    moved = file.rename(tmp_path / "moved.safetensors")
    with pytest.raises(WeightsNotFound, match="--weights"):
        load_spec(spec, device="cpu")
    assert load_spec(spec, weights=str(moved), device="cpu").spec.fingerprint == spec.fingerprint
    with pytest.raises(WeightsNotFound, match=r"Say where it is: --weights FILE"):
        load_spec(replace(spec, source=""), device="cpu")
    state = network.state_dict()
    state["norm.bias"] += 1
    save_file(state, file)
    with pytest.raises(EncoderMismatch, match=spec.fingerprint):
        load_spec(spec, device="cpu")


def test_a_directory_may_move_but_not_change(tmp_path):
    folder = clip_directory(tmp_path / "m")
    spec = load(f"local-dir:{folder}", device="cpu").spec
    moved = (tmp_path / "sub" / "m").parent
    moved.mkdir()
    folder = folder.rename(moved / "m")
    assert load_spec(spec, weights=str(folder), device="cpu").spec.fingerprint == spec.fingerprint
    config = folder / "open_clip_config.json"
    config.write_text(config.read_text().replace("0.481", "0.581"))
    with pytest.raises(EncoderMismatch):
        load_spec(spec, weights=str(folder), device="cpu")


def test_weights_of_another_architecture_are_refused_and_the_first_keys_named(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file({"conv1.weight": torch.zeros(3)}, file)
    for name in ("resnet18", SMALL, "open_clip:ViT-S-32-alt"):
        with pytest.raises(WeightsMismatch, match=r"does not fit .*[Mm]issing.*Name the architecture"):
            load(name, weights=str(file), device="cpu")


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickled_weights_file_is_refused_and_its_code_not_run(tmp_path):
    evil = tmp_path / "evil.pt"
    torch.save({"weight": torch.zeros(1), "x": Payload(str(tmp_path / "ran"))}, evil)
    for name in ("resnet18", SMALL, "open_clip:ViT-S-32-alt"):
        with pytest.raises(WeightsMismatch, match="could run code"):
            load(name, weights=str(evil), device="cpu")
    assert not (tmp_path / "ran").exists()


def test_a_missing_weights_file_is_not_mistaken_for_a_tag(tmp_path):
    with pytest.raises(WeightsNotFound, match="no weights file"):
        load("resnet50", weights=str(tmp_path / "w.pth"))


def test_train_mode_and_wrong_pictures_are_refused():
    encoder = load(SMALL, weights="random", device="cpu")
    batch = noise(encoder.spec, 2)
    for wrong in (batch[:, :-1], batch.astype(np.float32), batch[0], batch.transpose(0, 3, 1, 2)):
        with pytest.raises(EncoderError, match="uint8"):
            encoder.embed(wrong)
    encoder._towers.module.train()
    with pytest.raises(EncoderError, match="train mode"):
        encoder.embed(batch)


def test_text_with_an_encoder_of_images_alone_is_refused():
    with pytest.raises(NoTextTower, match="clip-vit-b32"):
        load(SMALL, weights="random", device="cpu").embed_text(["a cat"])


@pytest.mark.parametrize("name", ["efficientnet-lite0", "ViT-S-32-alt"])
def test_a_picture_s_vector_in_a_full_batch_is_the_same_bits_whatever_lies_beside_it(name):
    encoder = load(name, weights=None if name == "efficientnet-lite0" else "random", device="cpu")
    n = encoder.batch_size
    batch = noise(encoder.spec, n)
    vectors = encoder.embed(batch)
    order = np.random.default_rng(1).permutation(n)
    np.testing.assert_array_equal(encoder.embed(batch[order]), vectors[order])
    alone = np.zeros_like(batch)
    alone[-1] = batch[0]
    np.testing.assert_array_equal(encoder.embed(alone)[-1], vectors[0])


def test_a_worker_uses_one_core_and_the_main_thread_keeps_its_own_setting():
    encoder = load(SMALL, weights="random", device="cpu")
    batch = noise(encoder.spec, 2)
    code = (
        "import threading, torch, numpy as np\n"
        "from indexer.encoders import load\n"
        "torch.set_num_threads(3)\n"
        f"encoder = load({SMALL!r}, weights='random', device='cpu')\n"
        f"batch = np.zeros({batch.shape}, np.uint8)\n"
        "seen = []\n"
        "def work():\n"
        "    encoder.embed(batch); seen.append(torch.get_num_threads())\n"
        "threads = [threading.Thread(target=work) for _ in range(4)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "encoder.embed(batch)\n"
        "print(seen, torch.get_num_threads())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1, 1, 1, 1] 3"


@pytest.mark.parametrize("text", ["tpu", "cuda:x", "gpu", "cuda:99"])
def test_a_device_that_is_no_device_or_not_there_is_refused(text):
    with pytest.raises(EncoderError, match=r"--device|none of auto, cpu"):
        load(SMALL, weights="random", device=text)


def test_importing_the_package_and_listing_its_names_loads_no_torch():
    code = "import sys; from indexer.encoders import catalogue; catalogue(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_repository_without_the_models_files_names_what_is_missing(tmp_path):
    with pytest.raises(WeightsNotFound, match=r"holds no open_clip_config\.json or config\.json"):
        load(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text('{"architecture": "nonesuch"}')
    with pytest.raises(WeightsNotFound, match=r"model\.safetensors"):
        load(f"local-dir:{tmp_path}")
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(EncoderError, match="neither an open_clip nor a timm"):
        load(f"local-dir:{tmp_path}")
