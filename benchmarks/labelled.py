"""Real labelled pictures that a package ships, the demo's brain slices, as tar shards; and the AUC of a linear probe on
a table of them, by which one encoder's number formats are compared.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from benchmarks.scale_cases import command
from benchmarks.shards import key
from indexer.demo.__main__ import BANDS, SLABS_PER_BAND
from indexer.demo.volume import slices
from indexer.store.table import EmbeddingStore
from probes.progress import Stages
from probes.request import ProbeRequest
from probes.runs.review.repeats import repeats
from probes.runs.run import read

SIDE, QUALITY = 512, 90  # of a slice: the matrix that clinical systems export
SPLITS = 10
PENALTY = 1.0  # C, equal for all number formats


@dataclass(frozen=True)
class Labelled:
    """Images in their files' bytes, and (key, label, group) of those that have a label; keys are `shards.key`'s."""

    files: Sequence[bytes]
    suffix: str
    labels: Sequence[tuple[str, str, str]]


def brain() -> Labelled:
    """JPEGs of the demo's slices in three planes; the axial ones have the demo's labels: bands, and slabs as groups."""
    files: list[bytes] = []
    axial: list[tuple[float, str]] = []
    for item in slices():
        if item.plane == "axial":
            axial.append((item.millimetres, key(len(files))))
        grey = Image.fromarray((item.pixels * 255).round().astype(np.uint8))
        colour = grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")
        files.append(simplejpeg.encode_jpeg(np.asarray(colour), QUALITY, "RGB", "420"))
    slabs = np.linspace(0, BANDS * SLABS_PER_BAND, len(axial), endpoint=False).astype(int)
    labels = [
        (own, f"band {slab // SLABS_PER_BAND + 1}", f"slab {slab:02d}")
        for (_, own), slab in zip(sorted(axial), slabs, strict=True)
    ]
    return Labelled(files, "jpg", labels)


def macro_auc(database: Path, table: str, labels: Sequence[tuple[str, str, str]]) -> float:
    """Of a linear probe on the test rows, the mean over SPLITS grouped splits, which are equal for equal labels."""
    path = database.parent / f"{database.name}-labels.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("key", "label", "own_group"), *labels])
    command("indexer", "labels", database, path, "--table", table, "--on", "key")
    request = ProbeRequest(
        str(database), "linear", ("label",), table=table, group="own_group", split="stratified",
        where="label IS NOT NULL", repeats=SPLITS, penalty=PENALTY,
    )  # fmt: skip
    store = EmbeddingStore.open(str(database), table)
    spreads = repeats(request, read(store, request), store, Stages(shown=False))
    return next(spread.mean for spread in spreads if spread.metric == "auc_macro")
