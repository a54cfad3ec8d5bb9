"""A small cohort in a table: patients with several images, every kind of label, and vectors that carry them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from indexer.store.table import EmbeddingStore
from tests.tables import make_table

DIM = 12
FINDINGS = ("effusion", "mass", "none")


def unit(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def rows_of(
    patients: int = 120, images: int = 3, seed: int = 0, signal: float = 1.0
) -> tuple[np.ndarray[Any, Any], list[dict[str, Any]]]:
    """Vectors (n, DIM) and metadata: patient, sex, site, ill (0/1), finding, grade, months, a to c (0/1/None), side."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(7).standard_normal((8, DIM))
    vectors, metadata = [], []
    for number in range(patients):
        ill, finding = int(rng.random() < 0.4), int(rng.integers(0, 3))
        labels = rng.random(3) < (0.5, 0.3, 0.2)
        site = "AB"[int(rng.random() < 0.3)]
        own = 0.6 * rng.standard_normal(DIM)
        for _ in range(images):
            mean = ill * directions[0] + directions[1 + finding] + 0.5 * labels @ directions[4:7]
            vectors.append(signal * mean + own + 1.2 * rng.standard_normal(DIM))
            masked = {name: None if rng.random() < 0.2 else int(on) for name, on in zip("abc", labels, strict=True)}
            metadata.append(
                {
                    "patient": f"patient {number:03d}",
                    "sex": "FM"[number % 2] if number % 11 else None,
                    "site": site,
                    "ill": ill,
                    "finding": FINDINGS[finding],
                    "grade": ill + finding,
                    "months": 60 - 20 * ill - 10 * finding + number % 7,
                    "side": ("train", "train", "train", "val", "test")[number % 5],
                }
                | masked
            )
    return unit(np.array(vectors)), metadata


def make_cohort(folder: Path, *, name: str = "t", **how: Any) -> str:
    """A database with one table; the path to it."""
    vectors, metadata = rows_of(**how)
    make_table(folder, vectors, metadata, name)
    return str(folder)


def make_separable(folder: Path, patients: int = 30) -> str:
    """Three colours that any probe tells apart, half of the patients grey; four images each, near their class."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((3, DIM))
    colours = [(0, 1, 2, 0)[number % 4] for number in range(patients) for _ in range(4)]
    metadata = [{"patient": f"p{i // 4:02d}", "colour": ("grey", "red", "blue")[c]} for i, c in enumerate(colours)]
    make_rows(folder, centres[colours] + 0.1 * rng.standard_normal((len(colours), DIM)), metadata)
    return str(folder)


def make_rows(folder: Path, vectors: np.ndarray[Any, Any], metadata: list[Mapping[str, Any]]) -> EmbeddingStore:
    return make_table(folder, unit(vectors), metadata)
