"""Our vectors against the reference libraries' own paths: their preprocessing, eval mode, fp32."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
import transformers
from safetensors.torch import save_file

from indexer.encoders import load, precision_check
from indexer.encoders.families.catalogue import bundled_weights
from indexer.encoders.light.legacy_file import read_legacy
from indexer.errors import WeightsMismatch
from indexer.libtorch.library import library
from tests.indexer.models import MEAN, STD, TEXT, VISION, clip_directory, lowest_cosine, pictures, squares


def assert_same(name, reference, *, weights=None, bf16=0.999, images=None):
    """`reference`: PIL images → (n, dim) by the library itself, in fp32."""
    images = images or pictures()
    with torch.inference_mode():
        wanted = reference(images).float().numpy()
    ours = load(name, weights=weights, precision="fp32", device="cpu")
    assert ours.spec.dim == wanted.shape[1]
    assert lowest_cosine(ours.embed(squares(images, ours.spec)), wanted) >= 0.9999
    np.testing.assert_allclose(
        np.linalg.norm(ours.embed(squares(images, ours.spec)), axis=1), np.linalg.norm(wanted, axis=1), rtol=0.01
    )
    low = load(name, weights=weights, precision="bf16", device="cpu")
    assert lowest_cosine(low.embed(squares(images, low.spec)), wanted) >= bf16


def through(model, transform):
    return lambda images: model.eval()(torch.stack([transform(i) for i in images]))


def test_an_open_clip_model_by_name_from_a_weights_file_equals_open_clip(tmp_path):
    torch.manual_seed(1)
    model = "ViT-S-32-alt"
    file = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in open_clip.create_model(model).state_dict().items()}, file)
    theirs, _, transform = open_clip.create_model_and_transforms(model, pretrained=str(file))
    theirs.eval()

    def reference(images):
        return theirs.encode_image(torch.stack([transform(i) for i in images]))

    assert_same(f"open_clip:{model}", reference, weights=str(file))


@pytest.mark.parametrize(
    ("preprocess", "config"),
    [
        ({"resize_mode": "shortest"}, {"quick_gelu": True}),
        ({"resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3}, {}),
        ({"resize_mode": "longest", "interpolation": "bilinear"}, {}),
        ({}, {"vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "head_width": 32}}),
    ],
    ids=["quickgelu", "squash", "pad", "resnet"],
)
def test_open_clip_directories_equal_open_clip_with_their_own_preprocessing(preprocess, config, tmp_path):
    folder = clip_directory(tmp_path / "m", preprocess=preprocess, **config)
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    theirs.eval()

    def reference(images):
        return theirs.encode_image(torch.stack([transform(i) for i in images]))

    assert_same(f"local-dir:{folder}", reference)


def test_a_clip_of_the_transformers_library_gives_the_same_vectors(tmp_path):
    shared = {
        "hidden_size": VISION["width"],
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_act": "quick_gelu",
    }
    config = transformers.CLIPVisionConfig(
        **shared, intermediate_size=256, image_size=64, patch_size=16, projection_dim=32
    )
    torch.manual_seed(2)
    witness = transformers.CLIPVisionModelWithProjection(config).eval()
    with torch.no_grad():  # its own initial weights are so small that activations hardly matter
        for parameter in witness.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    folder = clip_directory(tmp_path / "m", quick_gelu=True)
    state = open_clip.create_model(f"local-dir:{folder}").state_dict() | visual_of(witness.state_dict())
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "open_clip_model.safetensors")
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, image_mean=MEAN, image_std=STD
    )

    def reference(images):
        return witness(processor(images, return_tensors="pt")["pixel_values"]).image_embeds

    cat, coffee, _, texture = pictures()  # an odd margin is cropped one pixel further left by this library
    images = [cat, coffee, texture]
    assert_same(f"local-dir:{folder}", reference, images=images)
    wrong = clip_directory(tmp_path / "wrong", quick_gelu=False)
    shutil.copy(folder / "open_clip_model.safetensors", wrong)
    with torch.inference_mode():
        wanted = reference(images).numpy()
    quick, gelu = (load(f"local-dir:{d}", precision="fp32", device="cpu") for d in (folder, wrong))
    error = 1 - lowest_cosine(quick.embed(squares(images, quick.spec)), wanted)
    assert 1 - lowest_cosine(gelu.embed(squares(images, gelu.spec)), wanted) > 10 * error  # the comparison sees it


def visual_of(theirs):
    """The image tower's weights under open_clip's names."""
    root = next(k for k in theirs if k.endswith("embeddings.class_embedding")).removesuffix(
        "embeddings.class_embedding"
    )
    parts = {
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "conv1.weight": "embeddings.patch_embedding.weight",
    }
    for kind in ("weight", "bias"):
        parts[f"ln_pre.{kind}"] = f"pre_layrnorm.{kind}"
        parts[f"ln_post.{kind}"] = f"post_layernorm.{kind}"
        for i in range(VISION["layers"]):
            block, layer = f"transformer.resblocks.{i}", f"encoder.layers.{i}"
            parts[f"{block}.ln_1.{kind}"] = f"{layer}.layer_norm1.{kind}"
            parts[f"{block}.ln_2.{kind}"] = f"{layer}.layer_norm2.{kind}"
            parts[f"{block}.attn.out_proj.{kind}"] = f"{layer}.self_attn.out_proj.{kind}"
            parts[f"{block}.mlp.c_fc.{kind}"] = f"{layer}.mlp.fc1.{kind}"
            parts[f"{block}.mlp.c_proj.{kind}"] = f"{layer}.mlp.fc2.{kind}"
    ours = {f"visual.{k}": theirs[root + v] for k, v in parts.items()}
    for i in range(VISION["layers"]):
        for kind in ("weight", "bias"):
            rows = [theirs[f"{root}encoder.layers.{i}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
            ours[f"visual.transformer.resblocks.{i}.attn.in_proj_{kind}"] = torch.cat(rows)
    ours["visual.proj"] = theirs["visual_projection.weight"].T
    return ours


def test_torchvision_resnet50_from_a_weights_file_equals_torchvision(tmp_path):
    torch.manual_seed(3)
    theirs = torchvision.models.resnet50()
    with torch.no_grad():  # statistics as training leaves them: folding them must be exact, not trivial
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    theirs.fc = torch.nn.Identity()
    transform = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.transforms()
    assert_same("resnet50", through(theirs, transform), weights=str(tmp_path / "resnet50.pth"))


@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050", "test_vit"])
def test_timm_models_from_a_weights_file_equal_timm(model, tmp_path):
    torch.manual_seed(4)
    file = tmp_path / "weights.safetensors"
    theirs = timm.create_model(model)
    save_file(theirs.state_dict(), file)
    theirs.reset_classifier(0)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=theirs))
    assert_same(f"timm:{model}", through(theirs, transform), weights=str(file))


def test_the_bundled_encoder_equals_timm_and_knows_a_cat_an_espresso_and_a_missile():
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    state = torch.load(bundled_weights(), weights_only=True)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), state.values(), strict=True)))
    head = theirs.classifier
    theirs.reset_classifier(0)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=theirs))
    assert_same("efficientnet-lite0", through(theirs, transform), bf16=0.998)  # a network this thin loses more
    ours = load("efficientnet-lite0", precision="fp32", device="cpu")
    vectors = torch.from_numpy(ours.embed(squares(pictures()[:3], ours.spec)))
    cat, espresso, missile = head(vectors).argmax(1).tolist()
    assert cat in (281, 282, 285)  # tabby, tiger cat, Egyptian cat
    assert (espresso, missile) == (967, 657)


def test_the_bundled_network_gives_the_bits_of_timms(tmp_path):
    file = tmp_path / "same.safetensors"
    state = [t.contiguous() for t in torch.load(bundled_weights(), weights_only=True).values()]
    save_file(dict(zip(timm.create_model("tf_efficientnet_lite0").state_dict(), state, strict=True)), file)
    for precision in ("fp32", "bf16"):
        ours, timms = (
            load("efficientnet-lite0", weights=weights, precision=precision, device="cpu")
            for weights in (None, str(file))
        )
        facts = {"weights": ours.spec.weights, "source": ours.spec.source}
        assert replace(timms.spec, **facts) == ours.spec
        batch = squares(pictures(), ours.spec)
        assert np.array_equal(ours.embed(batch), timms.embed(batch))
        assert np.array_equal(ours.embed(batch[:1]), timms.embed(batch[:1]))


def test_a_query_by_the_bundled_encoder_imports_neither_timm_nor_torchvision(tmp_path):
    pictures()[0].save(tmp_path / "query.png")
    done = subprocess.run(
        [sys.executable, "-c", QUERY, str(tmp_path / "query.png")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["(1,", "1280)"]


QUERY = """
import sys
from pathlib import Path
from indexer.encoders import load
from indexer.search.images import image_vectors, read_image
print(image_vectors([read_image(Path(sys.argv[1]))], load("efficientnet-lite0")).shape)
print(*({"timm", "torchvision", "torch._dynamo"} & set(sys.modules)))
"""


@pytest.mark.skipif(library() is None, reason="torch's library has another interface here")
def test_a_query_image_without_torch_gives_torchs_bits(tmp_path):
    for i, picture in enumerate(pictures()):
        picture.save(tmp_path / f"{i}.png")
    done = subprocess.run([sys.executable, "-c", LIGHT, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "without torch"
    for precision in ("bf16", "fp32"):
        ours = load("efficientnet-lite0", precision=precision, device="cpu")
        batch = squares(pictures(), ours.spec)
        assert np.array_equal(np.load(tmp_path / "squares.npy"), batch)
        batch = np.concatenate([batch] * 3)  # more than one batch, the last of them not full
        assert np.array_equal(np.load(tmp_path / f"{precision}.npy"), ours.embed(batch))
        assert np.array_equal(np.load(tmp_path / f"{precision}-one.npy"), ours.embed(batch[:1]))


LIGHT = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from indexer.encoders.families.catalogue import entry
from indexer.encoders.families.efficientnet_plan import plain_spec
from indexer.encoders.light.encoder import light_encoder
from indexer.pixels import decode
folder = Path(sys.argv[1])
spec = plain_spec(entry("efficientnet-lite0"))
files = sorted(folder.glob("*.png"), key=lambda path: int(path.stem))
batch = np.stack([next(decode(path.read_bytes(), "png", spec.pixels)).pixels for path in files])
np.save(folder / "squares.npy", batch)
for precision in ("bf16", "fp32"):
    encoder = light_encoder(replace(spec, precision=precision), "cpu")
    np.save(folder / f"{precision}.npy", encoder.embed(np.concatenate([batch] * 3)))
    np.save(folder / f"{precision}-one.npy", encoder.embed(batch[:1]))
print("torch was imported" if "torch" in sys.modules else "without torch")
"""


def test_a_file_of_tensors_is_read_without_torch_and_one_that_holds_anything_else_is_refused(tmp_path):
    matrix = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    tensors = {"b": matrix.T, "a": matrix[1:, 2:], "count": torch.tensor(7)}  # views of one storage
    torch.save(OrderedDict(tensors), tmp_path / "plain.pth", _use_new_zipfile_serialization=False)
    found = read_legacy(tmp_path / "plain.pth")
    assert list(found) == list(tensors)
    assert all(np.array_equal(found[name], tensors[name].numpy()) for name in tensors)
    whole = (tmp_path / "plain.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[:-9])
    torch.save({"a": Path("x")}, tmp_path / "code.pth", _use_new_zipfile_serialization=False)
    torch.save(tensors, tmp_path / "zip.pth")
    for name in ("cut", "code", "zip"):
        with pytest.raises(WeightsMismatch):
            read_legacy(tmp_path / f"{name}.pth")


def test_the_precision_check_finds_the_lowest_cosine_against_fp32():
    encoder = load("efficientnet-lite0", precision="bf16", device="cpu")
    reference = load("efficientnet-lite0", precision="fp32", device="cpu")
    batch = squares(pictures(), encoder.spec)
    assert precision_check(encoder, batch) == pytest.approx(
        lowest_cosine(encoder.embed(batch), reference.embed(batch)), abs=1e-9
    )
    assert precision_check(reference, batch) == pytest.approx(1, abs=1e-6)


def test_text_vectors_equal_open_clips(tmp_path):
    folder = clip_directory(tmp_path / "m")
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    texts = ["a chest x-ray", "a photo of a cat", ""]
    with torch.inference_mode():
        wanted = theirs.encode_text(open_clip.get_tokenizer("ViT-B-32")(texts)).numpy()
    ours = load(f"local-dir:{folder}", precision="fp32", device="cpu")
    assert ours.text
    np.testing.assert_allclose(ours.embed_text(texts), wanted, rtol=1e-5, atol=1e-6)
    assert ours.logit_scale == pytest.approx(float(theirs.logit_scale.detach().exp()))
    assert TEXT["width"] == ours.spec.dim
