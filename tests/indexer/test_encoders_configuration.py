"""A model's configuration file decides which library code runs: no key of it runs code or reads other weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from indexer.encoders import load, load_spec
from indexer.encoders.families import hub
from indexer.errors import EncoderError, WeightsNotFound
from indexer.store.table import EmbeddingStore
from indexer.types import EncoderSpec
from tests.commands import call
from tests.indexer.models import TEXT, VISION, clip_directory

PLANTED = "from pathlib import Path\nPath({marker!r}).touch()\nfrom transformers import BertTokenizer as Evil\n"
CONFIG = "open_clip_config.json"


def planted(folder: Path) -> tuple[EncoderSpec, Path]:
    """A model directory whose tokenizer brings Python code that makes a marker, and the spec a table would hold."""
    spec = load(f"local-dir:{clip_directory(folder)}", device="cpu").spec
    marker = folder.parent / "marker"
    (folder / "evil.py").write_text(PLANTED.format(marker=str(marker)))
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}})
    )
    text = TEXT | {"hf_tokenizer_name": str(folder), "tokenizer_kwargs": {"trust_remote_code": True}}
    return _edited(folder, spec, text_cfg=text), marker


def _edited(folder: Path, spec: EncoderSpec, **changes: object) -> EncoderSpec:
    """Change the configuration; the spec that names its new hash."""
    content = json.loads((folder / CONFIG).read_text())
    content["model_cfg"] |= changes
    (folder / CONFIG).write_text(json.dumps(content))
    each = [hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in (CONFIG, "open_clip_model.safetensors")]
    return replace(spec, weights=f"sha256:{hashlib.sha256(''.join(each).encode()).hexdigest()}")


@pytest.mark.case("X3")
def test_searching_a_handed_over_table_runs_no_code_that_its_models_configuration_names(tmp_path):
    spec, marker = planted(tmp_path / "m")
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", spec)
    done = call("indexer", "search", store.uri, "--text", "a", "--device", "cpu")
    assert not marker.exists()
    assert done.code == 1
    assert "tokenizer_kwargs has the unknown key 'trust_remote_code'" in done.err


@pytest.mark.case("X3")
def test_indexing_with_such_a_model_is_refused_too(tmp_path):
    _, marker = planted(tmp_path / "m")
    with pytest.raises(EncoderError, match="trust_remote_code"):
        load(f"local-dir:{tmp_path / 'm'}", device="cpu").embed_text(["a"])
    assert not marker.exists()


@pytest.mark.case("X3")
def test_a_tokenizer_with_code_of_its_own_is_refused_without_asking(tmp_path):
    folder = tmp_path / "m"
    spec, marker = planted(folder)
    spec = _edited(folder, spec, text_cfg=TEXT | {"hf_tokenizer_name": str(folder)})
    with pytest.raises(EncoderError, match="code beside it is never run"):
        load_spec(spec, device="cpu").embed_text(["a"])
    assert not marker.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"text_cfg": TEXT | {"tokenizer_kwargs": {"cache_dir": "elsewhere"}}},
        {"text_cfg": TEXT | {"unheard_of": 1}},
        {"vision_cfg": VISION | {"timm_model_name": "hf-hub:nobody/nothing"}},
        {"vision_cfg": VISION | {"checkpoint_path": "w.pt"}},
        {"pretrained": True},
    ],
)
def test_an_unknown_key_of_an_open_clip_configuration_is_refused(tmp_path, change):
    folder = clip_directory(tmp_path / "m")
    spec = load(f"local-dir:{folder}", device="cpu").spec
    spec = _edited(folder, spec, **change)
    with pytest.raises(EncoderError, match=r"is refused|is an address"):
        load_spec(spec, device="cpu")


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def timm_directory(folder: Path, **content: object) -> Path:
    folder.mkdir()
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit").state_dict(), folder / "model.safetensors")
    facts = {"architecture": "test_vit", "num_classes": 1000}
    (folder / "config.json").write_text(json.dumps(facts | content))
    return folder


def test_a_timm_configuration_cannot_name_another_checkpoint(tmp_path):
    marker, evil = tmp_path / "marker", tmp_path / "evil.pt"
    torch.save({"x": Payload(marker)}, evil)
    for i, name in enumerate(("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")):
        folder = timm_directory(tmp_path / str(i), model_args={name: str(evil)})
        with pytest.raises(EncoderError, match=f"model_args has the unknown key '{name}'"):
            load(f"local-dir:{folder}", device="cpu")
    assert not marker.exists()


def test_a_timm_configuration_takes_its_weights_from_beside_it_wherever_it_points(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    plain = timm_directory(tmp_path / "plain", model_args={"img_size": 160})
    source = {"source": "hf-hub", "hf_hub_id": "nobody/nothing", "custom_load": True, "url": "http://127.0.0.1:9/w.pth"}
    pointing = timm_directory(tmp_path / "pointing", model_args={"img_size": 160}, pretrained_cfg=source)
    one, other = (load(f"local-dir:{folder}", device="cpu", precision="fp32") for folder in (plain, pointing))
    batch = np.random.default_rng(0).integers(0, 256, (2, 160, 160, 3), np.uint8)
    np.testing.assert_array_equal(one.embed(batch), other.embed(batch))


@pytest.mark.case("X3")
def test_a_query_asks_no_network_for_weights_unless_told_to(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "_answers", lambda origin: asked.append(origin))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    half = (0.5, 0.5, 0.5)
    pixels = load("timm:test_vit", weights="random", device="cpu").spec.pixels
    spec = EncoderSpec("hf-hub:nobody/nothing", "revision:0123", "projected", 8, half, half, "fp32", pixels)
    stored = [spec, replace(spec, name="timm:test_vit", weights="r160_in1k", pooling="mean")]
    for number, one in enumerate(stored):
        store = EmbeddingStore.create(str(tmp_path / str(number)), "t", one)
        done = call("indexer", "search", store.uri, "--text", "a", "--device", "cpu")
        assert done.code == 1
        assert asked == []
    done = call("indexer", "search", str(tmp_path / "0"), "--text", "a", "--device", "cpu", "--download")
    assert asked
    assert "does not answer" in done.err


def test_an_indexing_run_may_fetch_and_a_spec_may_not(monkeypatch):
    monkeypatch.setattr(hub, "_answers", lambda _origin: False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    half = (0.5, 0.5, 0.5)
    pixels = load("timm:test_vit", weights="random", device="cpu").spec.pixels
    spec = EncoderSpec("hf-hub:nobody/nothing", "", "projected", 8, half, half, "fp32", pixels)
    with pytest.raises(WeightsNotFound, match="does not answer"):
        load("hf-hub:nobody/nothing", device="cpu")
    with pytest.raises(WeightsNotFound, match=r"downloads nothing by itself\. Ask for it with --download"):
        load_spec(spec, device="cpu")
