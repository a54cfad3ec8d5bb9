"""Runs a command line's request, prints the result, and writes its folder completely or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from indexer.disk import fsync
from indexer.errors import ProbeError
from indexer.options import emit
from indexer.output_file import require_writable, written_whole
from probes.progress import Stages
from probes.reporting.comparison import PAGE
from probes.reporting.text import result_text
from probes.request import ProbeRequest
from probes.runs.bundle import PREDICTED, SPEC, WEIGHTS
from probes.runs.compare import Comparison
from probes.runs.outcome import Outcome
from probes.runs.result import ProbeResult
from probes.runs.result_files import COMPARISON, RESULT, read_comparison, read_result, write_result
from probes.runs.review.record import Examples
from probes.runs.review.reviewed import check_review, run_reviewed

REPORT, PREDICTIONS, EXAMPLES = "report.html", "predictions.parquet", "examples.csv"
FILES = (REPORT, PREDICTIONS, EXAMPLES, SPEC, WEIGHTS, RESULT, PAGE, COMPARISON)  # the files of a result folder
# Fields that identify a probe
SAME = ("probe", "labels", "multilabel", "ordinal", "numeric", "positive", "group", "preset", "task")


def answer(request: ProbeRequest, *, out: Path | None, replace: bool, as_json: bool) -> None:
    """Run the request, write the folder, print the result. Raises ProbeError before the run for a bad folder."""
    if out is not None:
        check_folder(out, request, replace=replace)
    check_review(request)
    progress = Stages()
    if request.split_is_folds:
        from probes.runs.nested import run_nested

        result = run_nested(request, progress)
        if out is not None:
            _write_folder(out, lambda folder: _write_result_files(result, folder))
    else:
        outcome = run_reviewed(request, progress)
        result = outcome.result
        if out is not None:
            write_outcome(outcome, out)
    emit(result, as_json=as_json, text=result_text)


def check_folder(out: Path, request: ProbeRequest, *, replace: bool, tables: Sequence[str] = ()) -> None:
    """Raise ProbeError where `out` cannot be written, holds other files, or (without `replace`) another probe's result.

    `tables` are those of a comparison, or its levels. An earlier result of the same probe is replaced without it.
    """
    there = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ProbeError(f"{there} is not a writable folder. Name another one with --out.")
    if not out.exists() or not any(out.iterdir()):
        return
    found = [name for name in (RESULT, COMPARISON) if (out / name).exists()]
    if not found:
        raise ProbeError(f"{out} holds other files. Name an empty or new folder with --out.")
    if not replace and (found != [COMPARISON if tables else RESULT] or not _same_probe(out, request, tables)):
        raise ProbeError(f"{out} holds the result of another probe. Name another folder with --out, or add --replace.")


def _same_probe(out: Path, request: ProbeRequest, tables: Sequence[str]) -> bool:
    try:
        if tables:
            comparison = read_comparison(out)
            results, names = comparison.results, comparison.names
        else:
            results, names = (read_result(out),), ()
    except ProbeError:  # damaged, or of another format
        return False
    if any(getattr(results[0].request, name) != getattr(request, name) for name in SAME):
        return False
    stored = list(names) if tables else [result.source.table for result in results]
    wanted = list(tables) if tables else [request.table or stored[0]]
    where = {str(Path(db).absolute()) if "://" not in db else db for db in (results[0].request.db, request.db)}
    return stored == wanted and len(where) == 1


def write_outcome(outcome: Outcome, out: Path) -> None:
    """Write the result, its report, the test rows' probabilities, and the bundle."""
    from probes.runs.bundle import bundle_of, write_bundle

    def write(folder: Path) -> None:
        _write_result_files(outcome.result, folder)
        write_bundle(bundle_of(outcome), folder)
        _write_predictions(outcome, folder / PREDICTIONS)

    _write_folder(out, write)


def write_comparison(found: Comparison, out: Path) -> None:
    """Write comparison.json and comparison.html."""
    from probes.reporting.comparison import comparison_html

    def write(folder: Path) -> None:
        (folder / PAGE).write_text(comparison_html(found), encoding="utf-8")
        write_result(found, folder / COMPARISON)

    _write_folder(out, write)


def write_page(path: Path, page: str) -> None:
    """Write one file, completely or not at all. Raises InputError where it cannot be written."""
    require_writable(path, "--html")
    with written_whole(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _write_result_files(result: ProbeResult, folder: Path) -> None:
    from probes.reporting.html import report_html

    (folder / REPORT).write_text(report_html(result), encoding="utf-8")
    write_result(result, folder / RESULT)
    if result.review is not None and result.review.examples is not None:
        _write_examples(result.review.examples, folder / EXAMPLES)


def _write_examples(found: Examples, path: Path) -> None:
    """D31 as a table for a person: one image a line, with empty columns for what is seen."""
    import csv

    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["kind", "rank", "key", "group", "part", "label", "called", "p_label", "p_called", "score",
                      "nearest_keys", "nearest_labels", "right_label", "remark"])  # fmt: skip
        ranks: dict[str, int] = {}
        for e in found.shown:
            ranks[e.kind] = ranks.get(e.kind, 0) + 1
            numbers = ["" if v != v else f"{v:.4f}" for v in (e.p_label, e.p_called, e.score)]
            near = [" ".join(n.key for n in e.neighbours), " ".join(n.label for n in e.neighbours)]
            out.writerow([e.kind, ranks[e.kind], e.key, e.group, e.part, e.label, e.called, *numbers, *near, "", ""])


def _write_folder(out: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder inside `out`, then move its files into place: a full disk leaves the earlier result.

    Files of an earlier result that the new one lacks are removed; other files are kept.
    """
    made = not out.exists()
    part = out / f".part.{os.getpid()}"
    try:
        part.mkdir(parents=True)
        write(part)
        names = sorted((p.name for p in part.iterdir()), key=FILES.index)
        for name in names:
            fsync(part / name)
        for name in FILES:
            if name not in names:
                (out / name).unlink(missing_ok=True)
        for name in names:
            (part / name).replace(out / name)
        fsync(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if made and out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def write_predictions(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write one row for each test image: key, group, truth, and what each table gives (probabilities, or a number).

    Raises ProbeError where the file cannot be written.
    """
    columns: dict[str, Any] = {}
    for outcome in outcomes:
        table = outcome.experiment.request.table or ""
        own = _predictions(outcome)
        given = [name for name in own if name == PREDICTED or name.startswith("p(")]
        columns |= {name: own[name] for name in own if name not in given}
        columns |= {f"{table} {name}": own[name] for name in given}
    with written_whole(path) as partial:
        _write_columns(columns, partial)


def _write_predictions(outcome: Outcome, path: Path) -> None:
    """Write one row for each test image: key, group, truth and probability of each class, or the predicted number."""
    _write_columns(_predictions(outcome), path)


def _write_columns(columns: dict[str, Any], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)


def _predictions(outcome: Outcome) -> dict[str, Any]:
    import pyarrow as pa

    data, rows = outcome.experiment.data, outcome.experiment.split.test
    columns: dict[str, Any] = {
        "key": [data.keys[i] for i in rows],
        "group": [data.group_names[g] for g in data.groups[rows]],
    }
    truth = data.truth.take(rows)
    if truth.numbers is not None:
        columns |= {PREDICTED: outcome.p[:, 0]}
        return columns | (
            {"true": truth.numbers} if truth.events is None else {"time": truth.numbers, "event": truth.events}
        )
    for j, name in enumerate(truth.classes):
        columns[f"p({name})"] = outcome.p[:, j]
        if truth.codes is None:
            columns[f"true({name})"] = pa.array(truth.positive[:, j], mask=np.asarray(~truth.known[:, j]))
    if truth.codes is not None:
        columns["true"] = [truth.classes[c] for c in truth.codes]
    return columns
