"""Prompts → class-text vectors beside the table."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from indexer.commands.encoders import command as encoders
from indexer.commands.text import command as text
from indexer.encoders import load
from indexer.encoders.prompts import class_vectors, read_prompts
from indexer.errors import InputError, NoTextTower
from indexer.store.table import EmbeddingStore
from indexer.store.text import read_text
from tests.fakes import FakeEncoder
from tests.indexer.models import clip_directory

PROMPTS = {"cat": ["a photo of a cat", "a cat"], "dog": "a photo of a dog"}


def test_class_vectors_are_the_unit_means_of_unit_prompts(tmp_path):
    folder = clip_directory(tmp_path / "m", init_logit_bias=-10.0, custom_text=True)
    encoder = load(f"local-dir:{folder}", device="cpu")
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", encoder.spec)
    prompts = tmp_path / "pets.json"
    prompts.write_text(json.dumps(PROMPTS))
    done = CliRunner().invoke(text, [store.uri, "--prompts", str(prompts), "--json"], catch_exceptions=False)
    facts = json.loads(done.stdout)
    assert facts["task"] == "pets"
    assert facts["classes"] == {"cat": 2, "dog": 1}
    kept = read_text(store, "pets")
    raw = encoder.embed_text(["a photo of a cat", "a cat", "a photo of a dog"]).astype(np.float64)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    cat = (unit[0] + unit[1]) / np.linalg.norm(unit[0] + unit[1])
    assert kept.classes == ("cat", "dog")
    np.testing.assert_allclose(kept.vectors, [cat, unit[2]], atol=1e-6)
    assert kept.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)  # CLIP's initial temperature, exp'ed
    assert kept.logit_bias == -10


def test_a_table_of_an_encoder_without_text_is_refused(tmp_path):
    spec = load("timm:test_vit", weights="random", device="cpu").spec
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", spec)
    prompts = tmp_path / "pets.csv"
    prompts.write_text("class,prompt\ncat,a cat\ndog,a dog\n")
    done = CliRunner().invoke(text, [store.uri, "--prompts", str(prompts)])
    assert isinstance(done.exception, NoTextTower)


def test_prompts_come_from_json_or_csv_in_their_own_order(tmp_path):
    csv, js = tmp_path / "p.csv", tmp_path / "p.json"
    csv.write_text('class,prompt\nzebra,"a zebra, standing"\nant,an ant\nzebra,stripes\n', encoding="utf-8-sig")
    js.write_text(json.dumps({"zebra": ["a zebra, standing", "stripes"], "ant": "an ant"}))
    assert list(read_prompts(csv).items()) == list(read_prompts(js).items())
    assert list(read_prompts(csv)) == ["zebra", "ant"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.json", "[]", "JSON object"),
        ("p.json", "{", "cannot read prompts"),
        ("p.json", '{"a": [], "b": "x"}', "class 'a' has no prompts"),
        ("p.json", '{"a": [1], "b": "x"}', "class 'a' has an empty prompt"),
        ("p.csv", "label,text\na,b\n", "columns class and prompt"),
        ("p.csv", "class,prompt\na, \nb,x\n", "class 'a' has an empty prompt"),
        ("p.csv", "class,prompt\na,x\n", "at least two"),
    ],
)
def test_a_prompts_file_that_cannot_be_used_says_why(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_prompts(tmp_path / name)


def test_class_vectors_need_a_text_tower():
    with pytest.raises(NoTextTower):
        class_vectors(FakeEncoder(), {"a": ["x"], "b": ["y"]})


def test_the_encoders_command_lists_names_dims_licences_and_whether_the_weights_are_here():
    rows = json.loads(CliRunner().invoke(encoders, ["--json"]).stdout)
    bundled = next(r for r in rows if r["alias"] == "efficientnet-lite0")
    assert bundled == bundled | {"dim": 1280, "size": 224, "licence": "Apache-2.0", "text": False, "here": True}
    found = json.loads(CliRunner().invoke(encoders, ["vit-b-32", "--all", "--json"]).stdout)
    assert {"open_clip:ViT-B-32-quickgelu", "open_clip:ViT-B-32"} <= {r["name"] for r in found}
    assert ("open_clip:ViT-B-32", "openai") not in {(r["name"], r["weights"]) for r in found}
