"""torchvision ResNets with their published weights; pooled features. Only this module imports torchvision.models."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torchvision import models

from indexer.encoders.families.catalogue import Listed, licence_of, torch_checkpoint
from indexer.encoders.families.definition import EncoderDefinition, Towers, triple, unknown
from indexer.encoders.families.file_hash import verified
from indexer.encoders.families.hub import require_network
from indexer.encoders.families.weights import WeightsRequest, drawn_from, fill, identity, read
from indexer.encoders.rewritings.apply import rewritten
from indexer.errors import WeightsNotFound, sentence
from indexer.types import EncoderSpec, PixelSpec

FAMILY = "torchvision"


@cache
def known() -> tuple[str, ...]:
    return tuple(models.list_models(include=["resnet*", "resnext*", "wide_resnet*"]))


def listed() -> list[Listed]:
    """Every published (model, weights) pair."""
    return [
        Listed(
            "", name, w.name, _features(model), w.transforms().crop_size[0], False, licence_of(name, w.name), _here(w)
        )
        for model in known()
        for name in (f"{FAMILY}:{model}",)
        for w in models.get_model_weights(model)
    ]


def definition(model: str, request: WeightsRequest) -> EncoderDefinition:
    """A ResNet with a member of its weights enum, a file with its state_dict, or random weights, as in `request`."""
    if model not in known():
        raise unknown(model, known(), what="torchvision ResNet", way_out="`indexer encoders` lists the short names.")
    enum = models.get_model_weights(model)
    published = _published(model, enum, request)
    name = f"{FAMILY}:{model}"
    weights = identity(request, published.name)
    preset = published.transforms()
    pixels = PixelSpec(preset.crop_size[0], preset.resize_size[0], preset.interpolation.value, "crop")
    spec = EncoderSpec(
        name,
        weights,
        "pooled",
        _features(model),
        triple(preset.mean),
        triple(preset.std),
        "fp32",
        pixels,
        licence_of(name, weights),
    )

    def build() -> Towers:
        if request.kind == "random":
            with drawn_from(request.seed):
                network = models.get_model(model)
        else:
            network = models.get_model(model)
            fill(network, _state(published, request), request.value or f"{model} {published.name}")
        network.fc = torch.nn.Identity()
        network = rewritten(network, pixels.size)
        return Towers(network, network, network)

    return EncoderDefinition(spec, build, text=False, convolutional=True)


def _published(model: str, enum: Any, request: WeightsRequest) -> Any:
    """The enum member whose weights are used; for a file the first, for its preprocessing (resize 256, crop 224)."""
    if request.kind == "tag":
        tags = [w.name for w in enum]
        if request.value not in tags:
            way_out = f"{model} has {', '.join(tags)}, or give a weights file."
            raise unknown(request.value, tags, what=f"weights tag of {model}", way_out=way_out)
        return enum[request.value]
    return next(iter(enum)) if request.kind == "file" else enum.DEFAULT


def _state(published: Any, request: WeightsRequest) -> dict[str, torch.Tensor]:
    if request.kind == "file":
        return read(request.path)
    url = str(published.url)
    path = _path(published)
    if not path.is_file():
        require_network(url, f"{path.name} ({published})", download=request.download)
        try:
            published.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:
            words = f"could not fetch {url}: {sentence(error)}. Give a weights file (--weights FILE)."
            raise WeightsNotFound(words) from error
    return read(verified(path))


def _path(published: Any) -> Path:
    return torch_checkpoint(str(published.url).rsplit("/", 1)[-1])


def _here(published: Any) -> bool:
    return _path(published).is_file()


@cache
def _features(model: str) -> int:
    with torch.device("meta"):  # shapes only
        return int(models.get_model(model).fc.in_features)
