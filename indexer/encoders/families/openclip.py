"""open_clip models by name and tag, from weights files, hub repositories and directories.

Only this module and rewritings/clip_* import open_clip.

QuickGELU: some checkpoints were trained with x·sigmoid(1.702·x) in place of GELU, which only the tag's configuration
(or the configuration file beside the weights) records. The activation is taken from there; a model name that
contradicts it raises WeightsMismatch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # only to catch it  # nosec B403
from typing import Any

import open_clip
import torch
from open_clip.pretrained import download_pretrained_from_url
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from indexer.encoders.families.catalogue import WEIGHT_FILES, Listed, is_cached, licence_of
from indexer.encoders.families.configuration import open_clip_configuration, refuse_own_code
from indexer.encoders.families.definition import EncoderDefinition, Towers, triple, unknown
from indexer.encoders.families.hub import fetch, require_network
from indexer.encoders.families.weights import WeightsRequest, drawn_from, identity, misfit, not_plain, refuse_code
from indexer.encoders.rewritings.apply import rewritten
from indexer.encoders.rewritings.clip_attention import clip_attention
from indexer.encoders.rewritings.clip_class_token import clip_class_token
from indexer.encoders.rewritings.timm_class_token import timm_class_token
from indexer.errors import EncoderError, WeightsMismatch, WeightsNotFound, sentence
from indexer.types import EncoderSpec, PixelSpec

FAMILY = "open_clip"
QUICK = "-quickgelu"
CONFIG = "open_clip_config.json"
REWRITINGS = (clip_class_token, clip_attention, timm_class_token)  # the vision tower can be a timm network
FITS = {"shortest": "crop", "squash": "squash", "longest": "pad"}


def known() -> list[str]:
    return list(open_clip.list_models())


def registered(name: str) -> bool:
    return name in known() or (name.endswith(QUICK) and name.removesuffix(QUICK) in known())


def listed() -> list[Listed]:
    """Every published (model, tag) pair, under the name that includes its activation."""
    rows = {}
    for model, tag in open_clip.list_pretrained():
        published = open_clip.get_pretrained_cfg(model, tag)
        config = open_clip.get_model_config(model)
        quick = bool(published.get("quick_gelu") or config.get("quick_gelu"))
        name = f"{FAMILY}:{_canonical_name(model, quick=quick)}"
        size = config["vision_cfg"]["image_size"]
        here = is_cached(str(published["hf_hub"]).rpartition("/")[0])
        rows[name, tag] = Listed("", name, tag, config["embed_dim"], size, True, licence_of(name, tag), here)
    return list(rows.values())


@dataclass(frozen=True)
class _Checkpoint:
    """An architecture and the configuration that belongs to its weights."""

    name: str  # EncoderSpec.name
    weights: str
    licence: str
    config: Mapping[str, Any]  # model_cfg, with the activation of these weights
    preprocess: Mapping[str, Any]
    source: str  # argument of open_clip.create_model and get_tokenizer: a registry name, or local-dir:<path>
    download: bool  # whether files of the text tower may be downloaded


def definition(model: str, request: WeightsRequest) -> EncoderDefinition:
    """An open_clip model with the weights of `request`; "default" needs a model that has exactly one tag."""
    base = model.removesuffix(QUICK)
    if not registered(model):
        raise unknown(model, known(), what="open_clip model", way_out="`indexer encoders --all` lists every one.")
    base_or_model = model if model in known() else base
    published = _published(model, request)
    quick = _quick(model, published, request)
    name = _canonical_name(model, quick=quick)
    weights = identity(request, published.get("tag", ""))
    source = name if name in known() else base_or_model
    config = open_clip.get_model_config(source) | {"quick_gelu": quick}
    preprocess = merge_preprocess_dict(PreprocessCfg(), published | {"size": config["vision_cfg"]["image_size"]})
    full = f"{FAMILY}:{name}"
    licence = licence_of(full, weights)
    checkpoint = _Checkpoint(full, weights, licence, config, preprocess, source, request.download)
    return _definition(checkpoint, request, lambda: _file(published, request, name))


def from_directory(
    directory: Path, state_file: Callable[[], Path], name: str, weights: str, licence: str, *, download: bool
) -> EncoderDefinition:
    """A directory (or hub snapshot) with an open_clip_config.json. Raises EncoderError for a configuration refused."""
    config, preprocess_cfg = open_clip_configuration(directory / CONFIG)
    size = {"size": config["vision_cfg"]["image_size"]}
    preprocess = merge_preprocess_dict(PreprocessCfg(), preprocess_cfg | size)
    return _definition(
        _Checkpoint(name, weights, licence, config, preprocess, f"local-dir:{directory}", download),
        WeightsRequest("file", str(directory)),
        state_file,
    )


def _published(model: str, request: WeightsRequest) -> dict[str, Any]:
    """The tag's configuration; for files and random weights the most common preprocessing among the model's tags."""
    base = model.removesuffix(QUICK)
    tags = sorted({*open_clip.list_pretrained_tags_by_model(model), *open_clip.list_pretrained_tags_by_model(base)})
    configs = {t: open_clip.get_pretrained_cfg(model, t) or open_clip.get_pretrained_cfg(base, t) for t in tags}
    if request.kind in ("file", "random"):
        sibling = request.path.parent / CONFIG if request.kind == "file" else None
        if sibling and sibling.is_file():
            config, preprocess = open_clip_configuration(sibling)
            return preprocess | {"quick_gelu": config.get("quick_gelu", False)}
        shared = [{k: c.get(k) for k in ("mean", "std", "interpolation", "resize_mode")} for c in configs.values()]
        return max(shared, key=lambda c: shared.count(c)) if shared else {}
    wanted = request.value.lower().replace("-", "_")
    if request.kind == "default":
        if len(tags) != 1:
            raise EncoderError(f"{model} has {len(tags)} published weights. Choose with --weights: {', '.join(tags)}.")
        wanted = tags[0]
    if wanted not in configs:
        raise unknown(
            request.value,
            tags,
            what=f"weights tag of {model}",
            way_out=f"It has {', '.join(tags)}, or give a weights file.",
        )
    return dict(configs[wanted]) | {"tag": wanted}


def _quick(model: str, published: Mapping[str, Any], request: WeightsRequest) -> bool:
    """Whether these weights need QuickGELU. Raises WeightsMismatch where the model's name contradicts the weights."""
    own = open_clip.get_model_config(model) or {}
    by_name = model.endswith(QUICK) or bool(own.get("quick_gelu"))
    if request.kind == "random" or ("quick_gelu" not in published and request.kind == "file"):
        return by_name
    trained = bool(published.get("quick_gelu"))
    if model.endswith(QUICK) and not trained:
        raise WeightsMismatch(
            f"weights {request.value or published.get('tag')} were trained with GELU, and {model} computes QuickGELU. "
            f"Use {model.removesuffix(QUICK)}."
        )
    return trained or by_name


def _canonical_name(model: str, *, quick: bool) -> str:
    """The model name including its activation, so that every way to name a network gives the same fingerprint."""
    own = open_clip.get_model_config(model)
    if own is not None and bool(own.get("quick_gelu")) == quick:
        return model
    return model if model.endswith(QUICK) or not quick else model + QUICK


def _file(published: Mapping[str, Any], request: WeightsRequest, name: str) -> Path:
    if request.kind == "file":
        return request.path
    if repository := published.get("hf_hub"):
        parent, _, filename = repository.rpartition("/")
        safe = filename.rsplit(".", 1)[0] + ".safetensors"
        return fetch(parent, (safe, filename) if filename else WEIGHT_FILES, download=request.download)
    url = str(published["url"])
    target = Path("~/.cache/clip").expanduser() / url.rsplit("/", 1)[-1]
    if not target.is_file():
        require_network(url, f"{target.name} ({name})", download=request.download)
    try:
        return Path(download_pretrained_from_url(url))
    except (OSError, RuntimeError) as error:
        words = f"could not fetch {url}: {sentence(error)}. Give a weights file (--weights FILE)."
        raise WeightsNotFound(words) from error


def _definition(checkpoint: _Checkpoint, request: WeightsRequest, state_file: Callable[[], Path]) -> EncoderDefinition:
    spec = EncoderSpec(
        checkpoint.name,
        checkpoint.weights,
        "projected",
        int(checkpoint.config["embed_dim"]),
        triple(checkpoint.preprocess["mean"]),
        triple(checkpoint.preprocess["std"]),
        "fp32",
        _pixels(checkpoint),
        checkpoint.licence,
    )

    def build() -> Towers:
        if request.kind == "random":
            with drawn_from(request.seed):
                model = _create(checkpoint)
        else:
            path = state_file()
            model = _create(checkpoint)
            _load(model, path, checkpoint.name)
        model.visual = rewritten(model.visual, spec.pixels.size, *REWRITINGS)
        return _towers(model, checkpoint)

    vision = checkpoint.config["vision_cfg"]
    convolutional = not isinstance(vision.get("layers", 0), int) or "convnext" in vision.get("timm_model_name", "")
    return EncoderDefinition(spec, build, text=True, convolutional=convolutional)


def _pixels(checkpoint: _Checkpoint) -> PixelSpec:
    size, data = checkpoint.preprocess["size"], checkpoint.preprocess
    side = size if isinstance(size, int) else size[0]
    if not isinstance(size, int) and len(set(size)) != 1:
        raise EncoderError(f"{checkpoint.name} sees {size[0]} × {size[1]} pixels; only square inputs are supported.")
    if data["interpolation"] not in ("bicubic", "bilinear"):
        raise EncoderError(
            f"{checkpoint.name} is preprocessed with {data['interpolation']} resizing, which is not supported."
        )
    return PixelSpec(int(side), int(side), data["interpolation"], FITS[data["resize_mode"]])


def _create(checkpoint: _Checkpoint) -> Any:
    overrides: dict[str, Any] = {}
    text = deepcopy(checkpoint.config["text_cfg"])
    if name := text.get("hf_model_name"):  # the text tower's configuration is in another repository
        file = _repository_file(name, ("config.json",), download=checkpoint.download)
        refuse_own_code(file)
        text["hf_model_name"] = str(file.parent)
        overrides["text_cfg"] = text | {"hf_model_pretrained": False}
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # of random initialisation: `_load` fills every weight, strictly
    try:
        model = open_clip.create_model(
            checkpoint.source,
            load_weights=False,
            pretrained_text=False,
            force_quick_gelu=bool(checkpoint.config.get("quick_gelu")),
            **overrides,
        )
    finally:
        logging.disable(level)
    return model


def _repository_file(name: str, filenames: tuple[str, ...], *, download: bool) -> Path:
    local = [Path(name) / f for f in filenames if (Path(name) / f).is_file()]
    return local[0] if local else fetch(name, filenames, download=download)


def _load(model: torch.nn.Module, path: Path, name: str) -> None:
    """Load a state_dict through open_clip's key conversion, strictly, with weights_only."""
    refuse_code(path)
    try:
        open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True)
    except UnpicklingError as error:
        raise not_plain(path) from error
    except (RuntimeError, KeyError) as error:
        raise misfit(str(path), name, error) from error


def _towers(model: Any, checkpoint: _Checkpoint) -> Towers:
    def image(pixels: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = model.encode_image(pixels, normalize=False)
        return vectors

    def text(tokens: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = model.encode_text(tokens, normalize=False)
        return vectors

    bias = getattr(model, "logit_bias", None)
    return Towers(
        model,
        model.visual,
        image,
        text,
        lambda: _tokenizer(checkpoint),
        float(model.logit_scale.detach().exp().reshape(())),
        None if bias is None else float(bias.detach().reshape(())),
    )


def _tokenizer(checkpoint: _Checkpoint) -> Any:
    text = checkpoint.config["text_cfg"]
    try:
        if name := text.get("hf_tokenizer_name"):
            in_directory = checkpoint.source.removeprefix("local-dir:")
            source = in_directory if (Path(in_directory) / "tokenizer_config.json").is_file() else name
            files = ("tokenizer_config.json", "tokenizer.json")
            directory = _repository_file(source, files, download=checkpoint.download).parent
            options = text.get("tokenizer_kwargs") or {}
            return open_clip.tokenizer.HFTokenizer(
                str(directory),
                context_length=text.get("context_length", 77),
                tokenizer_mode=text.get("tokenizer_mode"),
                **options,
                trust_remote_code=False,  # without it transformers asks on a terminal whether to run the files' code
            )
        return open_clip.get_tokenizer(checkpoint.source)
    except ValueError as error:
        first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(" .")
        raise EncoderError(
            f"the tokenizer of {checkpoint.name} cannot be loaded, and code beside it is never run: {first}. "
            "Use another model for text."
        ) from error
    except OSError as error:
        raise WeightsNotFound(
            f"the tokenizer of {checkpoint.name} is not on this machine: {str(error).splitlines()[0]}. "
            "Copy it into the hub cache from a machine with a network."
        ) from error
