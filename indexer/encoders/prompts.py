"""Class embeddings for zero-shot probes: a file of prompts → one unit text vector per class."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from indexer.disk import read_bounded
from indexer.errors import InputError, sentence
from indexer.types import Float32, Float64

MOST_BYTES = 16 << 20  # of a file of prompts

Prompts = Mapping[str, Sequence[str]]  # class → its prompts, in the order in which the classes are stored


class TextEncoder(Protocol):
    """An encoder with a text tower."""

    def embed_text(self, texts: Sequence[str]) -> Float32: ...


def read_prompts(path: Path) -> Prompts:
    """A JSON object (class → prompt or list of prompts), or a CSV with the columns class and prompt.

    Raises InputError for anything else, a class without a prompt, and fewer than two classes.
    """
    try:
        text = read_bounded(path, MOST_BYTES).decode("utf-8-sig")
        pairs = _from_json(text) if path.suffix.lower() == ".json" else _from_csv(text)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise InputError(
            f"cannot read prompts from {path}: {sentence(error)}. "
            'Give JSON {"class": ["prompt", …]}, or a CSV in UTF-8 with the columns class and prompt.'
        ) from error
    prompts: dict[str, list[str]] = {}
    for name, prompt in pairs:
        if not isinstance(prompt, str) or not prompt.strip() or not name.strip():
            raise InputError(f"{path}: class {name!r} has an empty prompt. Give each class at least one sentence.")
        prompts.setdefault(name, []).append(prompt)
    if len(prompts) < 2:
        raise InputError(f"{path} names {len(prompts)} classes; zero-shot scores need at least two. Add a class.")
    return prompts


def class_vectors(encoder: TextEncoder, prompts: Prompts) -> Float32:
    """(c, dim) unit rows, one per class in the order of `prompts`.

    The normalised mean of the prompts' normalised embeddings (prompt ensembling: Radford et al. 2021, 3.1.4).
    """
    texts = [text for group in prompts.values() for text in group]
    vectors = _unit(encoder.embed_text(texts).astype(np.float64))
    ends = np.cumsum([len(group) for group in prompts.values()])
    means = [part.mean(axis=0) for part in np.split(vectors, ends[:-1])]
    return _unit(np.stack(means)).astype(np.float32)


def _unit(rows: Float64) -> Float64:
    unit: Float64 = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _from_json(text: str) -> list[tuple[str, object]]:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("it must be a JSON object that maps each class to its prompts")
    groups = {name: [group] if isinstance(group, str) else group for name, group in content.items()}
    if bad := [name for name, group in groups.items() if not isinstance(group, list) or not group]:
        raise ValueError(f"class {bad[0]!r} has no prompts")
    return [(name, prompt) for name, group in groups.items() for prompt in group]


def _from_csv(text: str) -> list[tuple[str, object]]:
    rows = csv.DictReader(text.splitlines())
    if not {"class", "prompt"} <= set(rows.fieldnames or ()):
        raise ValueError("it must have the columns class and prompt, or be a .json file")
    return [(row["class"] or "", row["prompt"]) for row in rows]
