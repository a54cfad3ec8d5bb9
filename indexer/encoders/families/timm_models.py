"""timm models by name, from hub repositories and directories; EfficientNet-Lite0 with other weights than the bundled.

Only this module and rewritings/timm_class_token import timm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config

from indexer.encoders.families.catalogue import CatalogueEntry, Listed, is_cached, licence_of
from indexer.encoders.families.configuration import check_model_arguments, timm_configuration
from indexer.encoders.families.definition import EncoderDefinition, Towers, triple, unknown
from indexer.encoders.families.hub import fetch
from indexer.encoders.families.weights import WeightsRequest, drawn_from, identity, misfit, read
from indexer.encoders.rewritings.apply import rewritten
from indexer.encoders.rewritings.timm_class_token import timm_class_token
from indexer.errors import EncoderError
from indexer.types import EncoderSpec, PixelSpec

FAMILY = "timm"
BUNDLED_ARCHITECTURE = "tf_efficientnet_lite0"
NO_TAG = "default"  # `EncoderSpec.weights` of models published without a tag
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Facts:
    """The fields of a spec that identify a checkpoint."""

    name: str
    weights: str
    licence: str


def known(name: str) -> bool:
    return bool(timm.is_model(name.split(".")[0]))


def names() -> list[str]:
    return list(timm.list_models())


def listed() -> list[Listed]:
    """Every published checkpoint; `dim` is None, since it is known only after building the model."""
    rows = []
    for model in timm.list_pretrained():
        published = timm.get_pretrained_cfg(model)
        licence = published.license or "unknown"
        here = is_cached(published.hf_hub_id or "")
        rows.append(Listed("", f"{FAMILY}:{model}", "", None, published.input_size[-1], False, licence, here))
    return rows


def _tagged(model: str) -> bool:
    """Whether `model` has no tag (the part after the dot), or one that timm publishes."""
    architecture, dot, _ = model.partition(".")
    return not dot or model in timm.list_pretrained(f"{architecture}.*")


def definition(model: str, request: WeightsRequest) -> EncoderDefinition:
    """A timm model; `model` may include a tag after a dot (resnet50.a1_in1k), which `--weights TAG` overrides."""
    if not known(model):
        raise unknown(model, timm.list_models(), what="timm model", way_out="`indexer encoders` lists the short names.")
    if request.kind == "tag" and request.value != NO_TAG:
        model = f"{model.split('.')[0]}.{request.value}"
    default = timm.get_pretrained_cfg(model, allow_unregistered=False) if _tagged(model) else None
    if default is None or (request.kind in ("default", "tag") and not default.has_weights):
        tags = timm.list_pretrained(f"{model.split('.')[0]}.*")
        raise unknown(
            model, tags, what="timm checkpoint", way_out="Name a tag, or give a weights file (--weights FILE)."
        )
    full = f"{default.architecture}.{default.tag}" if default.tag else default.architecture
    name = f"{FAMILY}:{full if request.kind in ('default', 'tag') else model}"

    def state() -> dict[str, torch.Tensor]:
        if request.kind == "file":
            return read(request.path)
        files = (default.hf_hub_filename,) if default.hf_hub_filename else HUB_FILES
        return read(fetch(default.hf_hub_id, files, download=request.download))

    facts = Facts(name, identity(request, default.tag or NO_TAG), default.license or licence_of(name, ""))
    return _definition(_Model(full, {}, {}), facts, request, state)


def from_config(config_file: Path, state_file: Callable[[], Path], facts: Facts) -> EncoderDefinition:
    """A model from a timm `config.json` (of a hub repository or a directory) and a weights file.

    Raises EncoderError for a configuration refused.
    """
    architecture, arguments, overlay = timm_configuration(config_file)
    if not known(architecture):
        raise EncoderError(f"{config_file} names no timm architecture: this is neither an open_clip nor a timm model.")
    with torch.device("meta"):
        plain = timm.create_model(architecture)
    check_model_arguments(arguments, type(plain), config_file)
    model = _Model(architecture, arguments, overlay)
    return _definition(model, facts, WeightsRequest("file", facts.name), lambda: read(state_file()))


def bundled_architecture(listed: CatalogueEntry, request: WeightsRequest) -> EncoderDefinition:
    """The bundled encoder's network with weights of a file or random ones; `efficientnet_lite0` has its own weights."""
    facts = Facts(listed.name, identity(request, listed.weights), listed.licence)
    return _definition(_Model(BUNDLED_ARCHITECTURE, {}, {}), facts, request, lambda: read(request.path))


@dataclass(frozen=True)
class _Model:
    """Arguments of timm.create_model: architecture, keyword arguments, overrides of the pretrained configuration."""

    architecture: str
    arguments: Mapping[str, Any]
    overlay: Mapping[str, Any]

    def create(self, state: Mapping[str, torch.Tensor] | None = None) -> Any:
        """With random weights, or with `state`, loaded strictly through timm's key conversion."""
        overlay = dict(self.overlay)
        if state is None:
            return self._create(overlay, pretrained=False)
        head = self._create(overlay, pretrained=False).pretrained_cfg.get("classifier")
        if isinstance(head, str) and not any(k.startswith(f"{head}.") for k in state):
            overlay["num_classes"] = 0  # a state without classifier head: build the network without one too
        return self._create(overlay | {"state_dict": dict(state), "custom_load": False}, pretrained=True)

    def _create(self, overlay: Mapping[str, Any], *, pretrained: bool) -> Any:
        arguments = dict(self.arguments)
        if "num_classes" in overlay:
            arguments["num_classes"] = overlay["num_classes"]
        return timm.create_model(
            self.architecture, pretrained=pretrained, pretrained_cfg_overlay=dict(overlay), **arguments
        )


def _definition(
    model: _Model, facts: Facts, request: WeightsRequest, state: Callable[[], dict[str, torch.Tensor]]
) -> EncoderDefinition:
    with torch.device("meta"):  # shapes only
        shape = model.create()
    data = resolve_data_config({}, model=shape)
    spec = EncoderSpec(
        facts.name,
        facts.weights,
        _pooling(shape),
        int(shape.head_hidden_size),
        triple(data["mean"]),
        triple(data["std"]),
        "fp32",
        _pixels(facts.name, data),
        facts.licence,
    )

    def build() -> Towers:
        if request.kind == "random":
            with drawn_from(request.seed):
                network = model.create()
        else:
            try:
                network = model.create(state())
            except (RuntimeError, KeyError) as error:
                raise misfit(request.value or facts.name, model.architecture, error) from error
        network.reset_classifier(0)
        network = rewritten(network, spec.pixels.size, timm_class_token)
        return Towers(network, network, network)

    return EncoderDefinition(spec, build, text=False, convolutional=not hasattr(shape, "patch_embed"))


def _pooling(model: Any) -> str:
    pool = getattr(model, "global_pool", None)
    if not isinstance(pool, str):  # a module, as convolutional networks have it
        return "pooled"
    if pool == "avg":
        return "mean"
    return "cls" if pool == "token" else "pooled"


def _pixels(name: str, data: Mapping[str, Any]) -> PixelSpec:
    """The evaluation transform of timm as a PixelSpec: resize the short side to floor(size / crop_pct), centre crop."""
    _, height, width = data["input_size"]
    resize = math.floor(height / data["crop_pct"])
    mode = data["crop_mode"] or "center"
    if height != width:
        raise EncoderError(f"{name} sees {height} × {width} pixels; only square inputs are supported.")
    if data["interpolation"] not in ("bicubic", "bilinear"):
        raise EncoderError(f"{name} is preprocessed with {data['interpolation']} resizing, which is not supported.")
    if mode == "center":
        return PixelSpec(height, resize, data["interpolation"], "crop")
    if mode == "squash" and resize == height:
        return PixelSpec(height, height, data["interpolation"], "squash")
    raise EncoderError(
        f"{name} is preprocessed with crop mode {mode} at crop_pct {data['crop_pct']}, which is not supported. "
        "Use another checkpoint (`indexer encoders` lists them)."
    )
