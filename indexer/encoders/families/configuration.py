"""The keys of a model's configuration file that are used, from a hub repository or a directory.

A configuration decides which library code runs with which arguments: `tokenizer_kwargs` with trust_remote_code runs
Python files beside it, `checkpoint_path` and `source` load other weights. So every key is on a list here, with the
type of its value, and any other key is refused.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from indexer.errors import EncoderError, sentence

MODEL = frozenset(
    {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale", "init_logit_bias",
     "cast_dtype", "nonscalar_logit_scale", "output_dict", "multimodal_cfg"}
)  # fmt: skip
_TOWER = frozenset(
    {"layers", "width", "mlp_ratio", "ls_init_value", "final_ln_after_pool", "pool_type", "output_tokens", "act_kwargs",
     "norm_kwargs", "block_type", "qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn",
     "scale_fc"}
)  # fmt: skip
VISION = _TOWER | {
    "head_width", "patch_size", "image_size", "patch_dropout", "attentional_pool", "attn_pooler_queries",
    "attn_pooler_heads", "no_ln_pre", "pos_embed_type", "timm_model_name", "timm_model_pretrained", "timm_pool",
    "timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path",
}  # fmt: skip
TEXT = _TOWER | {
    "context_length", "vocab_size", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs", "heads", "embed_cls",
    "pad_id", "eos_id", "no_causal_mask", "proj_bias", "proj_type", "hf_model_name", "hf_model_pretrained",
    "hf_proj_type", "hf_pooler_type",
}  # fmt: skip
MULTIMODAL = TEXT - {"tokenizer_kwargs"} | {"dim_head", "n_queries", "attn_pooler_heads"}  # of CoCa's decoder
TOKENIZER = frozenset({"clean", "strip_sep_token", "language", "use_fast", "add_prefix_space", "do_lower_case"})
PREPROCESS = frozenset({"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"})
TIMM_DATA = frozenset(
    {"tag", "input_size", "test_input_size", "min_input_size", "fixed_input_size", "interpolation", "crop_pct",
     "test_crop_pct", "crop_mode", "mean", "std", "num_classes", "pool_size", "test_pool_size", "first_conv",
     "classifier", "license", "description", "origin_url", "paper_name", "paper_ids", "notes", "label_names",
     "label_descriptions"}
)  # fmt: skip
TIMM_WEIGHTS = frozenset(
    {"url", "file", "source", "hf_hub_id", "hf_hub_filename", "hf_hub_revision", "architecture", "custom_load"}
)  # of pretrained_cfg, which say where weights lie: ours lie beside the configuration, so these are left out


def read_configuration(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises EncoderError where it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise EncoderError(f"{path} is not readable JSON: {sentence(error)}. Download the model again.") from error
    if not isinstance(content, dict):
        raise EncoderError(f"{path} is not a JSON object. Download the model again.")
    return content


def open_clip_configuration(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """`model_cfg` and `preprocess_cfg` of an open_clip_config.json. Raises EncoderError for other keys."""
    content = read_configuration(path)
    model, preprocess = _object(content, "model_cfg", path), _object(content, "preprocess_cfg", path)
    _check(model, MODEL, "model_cfg", path)
    _check(preprocess, PREPROCESS, "preprocess_cfg", path)
    vision, text = _object(model, "vision_cfg", path), _object(model, "text_cfg", path)
    _check(vision, VISION, "vision_cfg", path)
    _check(text, TEXT, "text_cfg", path)
    _check(_object(model, "multimodal_cfg", path), MULTIMODAL, "multimodal_cfg", path)
    _check(_object(text, "tokenizer_kwargs", path), TOKENIZER, "tokenizer_kwargs", path)
    if ":" in str(vision.get("timm_model_name") or ""):  # timm would fetch hf-hub:… and read local-dir:…
        raise EncoderError(
            f"{path}: timm_model_name {vision['timm_model_name']!r} is an address, not a name. {WAY_OUT}"
        )
    if "embed_dim" not in model or "image_size" not in vision:
        raise EncoderError(f"{path} lacks embed_dim or vision_cfg.image_size. Download the model again.")
    return model, preprocess


def timm_configuration(path: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Architecture, `model_args` and the data facts of `pretrained_cfg` in a timm config.json.

    Which `model_args` there may be only the architecture can say (`check_model_arguments`). Raises EncoderError.
    """
    content = read_configuration(path)
    facts = _object(content, "pretrained_cfg", path)
    _check(facts, TIMM_DATA | TIMM_WEIGHTS, "pretrained_cfg", path)
    kept = {name: value for name, value in facts.items() if name in TIMM_DATA}
    if "num_classes" in content:
        kept["num_classes"] = content["num_classes"]
    return str(content.get("architecture", "")), _object(content, "model_args", path), kept


def check_model_arguments(arguments: Mapping[str, Any], network: type, path: Path) -> None:
    """Raise EncoderError unless every argument is one of the network's own constructor.

    timm.create_model takes others too, among them checkpoint_path and pretrained_cfg, which load other weights.
    """
    import inspect

    _check(arguments, inspect.signature(network).parameters.keys(), "model_args", path)


def refuse_own_code(path: Path) -> None:
    """Raise EncoderError where a transformers configuration names Python code of its own (`auto_map`)."""
    if "auto_map" in read_configuration(path):
        raise EncoderError(f"{path} asks to run code of its own (auto_map), which is never run. {WAY_OUT}")


WAY_OUT = "Remove it if you trust the model without it, or use another model."


def _object(content: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    value = content.get(name) or {}
    if not isinstance(value, dict):
        raise EncoderError(f"{path}: {name} is not a JSON object. Download the model again.")
    return value


def _check(given: Mapping[str, Any], allowed: Collection[str], where: str, path: Path) -> None:
    if unknown := [name for name in given if name not in allowed]:
        raise EncoderError(f"{path}: {where} has the unknown key {unknown[0]!r}, which is refused. {WAY_OUT}")
