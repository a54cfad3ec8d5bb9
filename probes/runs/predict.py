"""Applies a bundle to rows of a table or to new images (D16)."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from indexer.children import environment, python_command
from indexer.errors import EncoderMismatch, ProbeError
from indexer.groups.pooling import pool_rows
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Float16, Float32, Float64, Int64
from probes.cohort.labels import coded, word
from probes.cohort.scaling import scale
from probes.cohort.truth import probabilities
from probes.fitting.knn import group_ids
from probes.fitting.targets.hazard import baseline_in
from probes.request import IMAGE
from probes.runs.bundle import Bundle
from probes.runs.decision import Decision


@dataclass(frozen=True)
class Prediction:
    """The prediction for one row.

    `called`: of two classes the positive one if it is above its threshold; of labels all that are; else the most
    probable class.
    """

    key: str
    called: str
    probabilities: dict[str, float]
    above: tuple[str, ...]  # classes whose probability reaches their threshold


@dataclass(frozen=True)
class Estimate:
    """The predicted number of one row."""

    key: str
    predicted: float


@dataclass(frozen=True)
class Risk:
    """The log hazard ratio of one row to the mean fitted one."""

    key: str
    predicted: float
    survival: float  # probability of no event up to the bundle's horizon; NaN of a bundle without a baseline hazard


@dataclass(frozen=True)
class Unread:
    """An image file that could not be embedded."""

    key: str
    reason: str


def check_encoder(bundle: Bundle, store: EmbeddingStore) -> None:
    """Raise EncoderMismatch unless the table's vectors are of the encoder the probe was fitted on."""
    source = bundle.facts.source
    if store.spec.fingerprint != source.fingerprint:
        raise EncoderMismatch(
            stored=f"{store.spec.name} ({store.spec.fingerprint})", given=f"{source.encoder} ({source.fingerprint})"
        )


def score_rows(bundle: Bundle, unit: Float16, norms: Float32 | None = None, groups: Int64 | None = None) -> Float64:
    """Probabilities (n, c) of stored unit rows (n, dim), or numbers (n, 1); each is independent of the others."""
    logits = bundle.model.logits(scale(unit, bundle.scaler, norms), groups)
    if bundle.facts.request.target != "classes":
        return logits
    return probabilities(logits, bundle.facts.multilabel, bundle.facts.temperature)


def predict_table(bundle: Bundle, store: EmbeddingStore, where: str | None) -> Iterator[tuple[list[str], Float64]]:
    """Keys and probabilities of the table's rows, batch by batch. Raises EncoderMismatch, BadFilter."""
    check_encoder(bundle, store)
    if bundle.facts.request.level != IMAGE:
        yield from _predict_cases(bundle, store, where)
        return
    group = "key" if bundle.facts.request.group == "none" else bundle.facts.request.group
    grouped = bundle.model.by_neighbours and group in ("key", *store.columns())
    columns = ["key", "norm", *([group] if grouped else [])]
    for batch in store.scan(columns, where, vectors=True):
        groups = None
        if grouped:
            names = batch.column(group).to_pylist()
            groups = group_ids(tuple("" if v is None else word(v) for v in names))
        norms = batch.column("norm").to_numpy().astype(np.float32)
        yield batch.column("key").to_pylist(), score_rows(bundle, vector_block(batch), norms, groups)


def _predict_cases(bundle: Bundle, store: EmbeddingStore, where: str | None) -> Iterator[tuple[list[str], Float64]]:
    """Names and probabilities of the series, slides or patients of which the probe was fitted (D19); nothing without.

    Rows without one are no case. Reads all vectors at once.
    """
    level = bundle.facts.request.level
    if level not in store.columns():
        raise ProbeError(
            f"the probe is of each {level}, and table {store.name} has no such column. Join it with labels."
        )
    group = bundle.facts.request.group
    by = group if group in store.columns() else level
    cased = f"`{level}` IS NOT NULL"
    read = store.vectors(cased if where is None else f"({where}) AND ({cased})", list(dict.fromkeys([level, by])))
    cases, names = coded(read.columns.column(level), ordered=True)
    kept = np.flatnonzero(cases >= 0)  # NaN is no case either
    if not len(kept):
        return
    units, _ = pool_rows(read.vectors[kept], cases[kept], len(names), bundle.facts.request.pool)
    first = kept[np.unique(cases[kept], return_index=True)[1]]
    owners = read.columns.column(by).take(pa.array(first)).to_pylist()
    groups = group_ids(tuple("" if owner is None else word(owner) for owner in owners))
    yield list(names), score_rows(bundle, units, None, groups if bundle.model.by_neighbours else None)


def refuse_images_of_cases(bundle: Bundle) -> None:
    """Raise ProbeError where the probe is of cases of several images, which have no key to write to."""
    level = bundle.facts.request.level
    if level != IMAGE:
        raise ProbeError(
            f"the probe is of each {level}, not of images: leave --images and --write out, and pass it a table."
        )


def predict_images(
    bundle: Bundle, store: EmbeddingStore, files: Sequence[Path], weights: str | None
) -> tuple[list[str], Float64, list[Unread]]:
    """Probabilities of new images, embedded by `indexer embed` in a child process; and the images it could not read."""
    check_encoder(bundle, store)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "vectors.npy"
        command = python_command("indexer", "embed", store.uri, *map(str, files))
        command += ["--out", str(out), "--table", store.name, "--json", *(["--weights", weights] if weights else [])]
        done = subprocess.run(
            command, env=environment(), stdout=subprocess.PIPE, text=True, check=False
        )  # a command of this project
        try:
            facts = json.loads(done.stdout)
        except ValueError as error:
            raise ProbeError("the images were not embedded; see the message of `indexer embed` above.") from error
        raw = np.load(out, allow_pickle=False).astype(np.float64)
    norms = np.linalg.norm(raw, axis=1)
    unit = (raw / np.maximum(norms, 1e-12)[:, None]).astype(np.float16)  # as stored in a table
    unread = [Unread(f["key"], f["reason"]) for f in facts["failures"]]
    return facts["keys"], score_rows(bundle, unit, norms.astype(np.float32)), unread


def predictions(bundle: Bundle, keys: Sequence[str], p: Float64, by: Decision) -> list[Prediction]:
    classes, multilabel = bundle.facts.classes, bundle.facts.multilabel
    out = []
    for key, row, reached in zip(keys, p.tolist(), by.above(classes, p), strict=True):
        above = tuple(name for name, hit in zip(classes, reached, strict=True) if hit)
        if multilabel:
            called = ", ".join(above)
        elif len(by.thresholds) == 1:
            (positive,) = by.thresholds
            called = positive if above else next(name for name in classes if name != positive)
        else:
            called = classes[max(range(len(row)), key=row.__getitem__)]
        out.append(Prediction(key, called, dict(zip(classes, row, strict=True)), above))
    return out


def horizon_of_bundle(bundle: Bundle) -> float | None:
    """The time up to which a probe of times says how probable survival is; None of another probe."""
    return bundle.model.settings["horizon"] if baseline_in(bundle.model) is not None else None


def estimates(bundle: Bundle, keys: Sequence[str], predicted: Float64) -> list[Estimate] | list[Risk]:
    values = predicted[:, 0]
    if bundle.facts.request.target == "numeric":
        return [Estimate(key, value) for key, value in zip(keys, values.tolist(), strict=True)]
    base, survival = baseline_in(bundle.model), np.full(len(values), np.nan)
    if base is not None:
        survival = base.survival(values, bundle.model.settings["horizon"])
    return [Risk(key, *of) for key, *of in zip(keys, values.tolist(), survival.tolist(), strict=True)]


def estimates_as_columns(name: str, rows: Sequence[Estimate | Risk]) -> pa.Table:
    """The column pred_<name> for the table, of risks also pred_<name>_survival. Raises ProbeError as `as_columns`."""
    check_column_name(name)
    columns: dict[str, list[object]] = {"key": [r.key for r in rows], f"pred_{name}": [r.predicted for r in rows]}
    survival = [r.survival for r in rows if isinstance(r, Risk)]
    if survival and not np.isnan(survival).any():
        columns[f"pred_{name}_survival"] = list(survival)
    return pa.table(columns)


def as_columns(name: str, rows: Sequence[Prediction]) -> pa.Table:
    """Columns for the table: pred_<name> and pred_<name>_p_<class>, so that no other column is overwritten.

    Other characters in a class's name become "_". Raises ProbeError for a `name` with such characters.
    """
    check_column_name(name)
    stem = f"pred_{name}"
    columns: dict[str, list[object]] = {"key": [r.key for r in rows], stem: [r.called for r in rows]}
    for label in rows[0].probabilities if rows else ():
        own = f"{stem}_p_{_plain(label)}"
        while own in columns:  # two classes may differ in such characters only
            own += "_"
        columns[own] = [r.probabilities[label] for r in rows]
    return pa.table(columns)


def check_column_name(name: str) -> None:
    """Raise ProbeError unless the name has only letters, digits and "_", which need no quotes in a filter."""
    if not re.fullmatch(r"\w+", name, flags=re.ASCII):
        raise ProbeError(
            f"--write {name!r} is not a plain column name: use letters, digits and _ only, e.g. --write {_plain(name)}."
        )


def _plain(text: str) -> str:
    return re.sub(r"\W", "_", text, flags=re.ASCII).strip("_") or "value"
