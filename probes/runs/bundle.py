"""D16: stores a fitted probe as `probe.json` and `weights.npz`: numbers and text, no code."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexer.disk import read_small
from indexer.errors import ProbeError
from indexer.jsonable import jsonable
from probes.cohort.load import Source
from probes.cohort.scaling import Scaler, scale
from probes.evaluation.bootstrap import Interval
from probes.fitting.models import Model, require_trees
from probes.fitting.targets.hazard import require_hazard
from probes.request import ProbeRequest
from probes.runs.outcome import Outcome
from probes.runs.result import FORMAT
from probes.runs.result_files import MOST_BYTES, check_format, decode
from probes.runs.run import applied_temperature

DAMAGE = (  # exceptions of json, zipfile and numpy on damaged files
    ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError, MemoryError,
    NotImplementedError, EOFError, OSError, zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip
SPEC, WEIGHTS = "probe.json", "weights.npz"
PREDICTED = "predicted"  # in the place of the classes of a target that is no class


@dataclass(frozen=True)
class BundleFacts:
    """The content of `probe.json`."""

    format: int
    kind: str  # of the model
    settings: dict[str, float]
    scaler: str
    classes: tuple[str, ...]  # of a numeric target PREDICTED alone
    multilabel: bool
    temperature: float
    thresholds: dict[str, float]  # class → least probability at which a row is positive
    parameter: str  # name of the chosen parameter: C, k, alpha
    value: float
    source: Source
    request: ProbeRequest
    split: str
    split_sha256: str
    packages: dict[str, str]
    metrics: dict[str, Interval]


@dataclass(frozen=True)
class Bundle:
    """A probe that can be applied: its facts, the model, and the scaling before it."""

    facts: BundleFacts
    model: Model
    scaler: Scaler


def bundle_of(outcome: Outcome) -> Bundle:
    result, trained = outcome.result, outcome.trained
    facts = BundleFacts(
        format=FORMAT,
        kind=trained.model.kind,
        settings=trained.model.settings,
        scaler=trained.scaler.kind,
        classes=outcome.experiment.data.truth.classes if result.request.target == "classes" else (PREDICTED,),
        multilabel=outcome.experiment.data.truth.multilabel,
        temperature=applied_temperature(result.request, result.temperature),
        thresholds={o.column: o.threshold for o in result.operating},
        parameter=result.selection.parameter,
        value=result.selection.value,
        source=result.source,
        request=result.request,
        split=result.split.kind,
        split_sha256=result.split.sha256,
        packages=result.packages,
        metrics=result.test.metrics,
    )
    return Bundle(facts, trained.model, trained.scaler)


def write_bundle(bundle: Bundle, folder: Path) -> None:
    arrays = {f"model.{name}": array for name, array in bundle.model.arrays.items()}
    arrays |= {"scaler.mean": bundle.scaler.mean, "scaler.sd": bundle.scaler.sd}
    with (folder / WEIGHTS).open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    (folder / SPEC).write_text(
        json.dumps(jsonable(bundle.facts), ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle, without unpickling. Raises ProbeError where the folder holds no bundle of a known format."""
    try:
        facts: BundleFacts = decode(BundleFacts, json.loads(read_small(folder / SPEC, MOST_BYTES)))
        _require_plain(folder / WEIGHTS)
        # numpy leaves a file that it opened open where the archive is damaged
        with (folder / WEIGHTS).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except FileNotFoundError as error:
        raise ProbeError(
            f"{folder} holds no probe ({SPEC} and {WEIGHTS}). Make one with --out {folder} of a probe."
        ) from error
    except DAMAGE as error:
        raise ProbeError(f"{folder} holds a damaged probe ({error}). Make it again with --out of a probe.") from error
    check_format(facts.format, folder)
    model = Model(
        facts.kind, {k.removeprefix("model."): v for k, v in arrays.items() if k.startswith("model.")}, facts.settings
    )
    bundle = Bundle(facts, model, Scaler(facts.scaler, arrays["scaler.mean"], arrays["scaler.sd"]))
    try:
        _check(bundle)
    except DAMAGE as error:
        raise ProbeError(f"{folder} holds a damaged probe ({error}). Make it again with --out of a probe.") from error
    return bundle


def _require_plain(weights: Path) -> None:
    """Raise ValueError for an archive that is not stored as it is written: compressed, it may unpack to any size."""
    if weights.exists() and not weights.is_file():  # opening a pipe would block
        raise ValueError(f"{weights.name} is no regular file")
    with zipfile.ZipFile(weights) as archive:
        facts = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in facts):
        raise ValueError(f"{weights.name} is compressed")
    if sum(entry.file_size for entry in facts) > weights.stat().st_size:
        raise ValueError(f"{weights.name} announces more than it holds")


def _check(bundle: Bundle) -> None:
    """Check that the arrays fit together: a random row must give one finite logit for each class. Raises ValueError."""
    mean, sd, facts = bundle.scaler.mean, bundle.scaler.sd, bundle.facts
    if mean.ndim != 1 or mean.shape != sd.shape or not len(mean):
        raise ValueError(f"scaler of shapes {mean.shape} and {sd.shape}")
    if not isinstance(facts.temperature, float) or not facts.temperature > 0:
        raise ValueError(f"temperature {facts.temperature}")
    require_hazard(bundle.model)
    if facts.kind == "forest":
        require_trees(bundle.model.arrays, len(mean))
    row = np.full((1, len(mean)), 1 / np.sqrt(len(mean)), np.float16)
    with np.errstate(all="ignore"):
        logits = bundle.model.logits(scale(row, bundle.scaler, np.ones(1, np.float32)))
    if logits.shape != (1, len(facts.classes)):
        raise ValueError(f"logits of shape {logits.shape} for {len(facts.classes)} classes")
