"""A request from a command line → the result printed, and written where it was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from indexer.errors import ProbeError
from indexer.options import emit
from probes.progress import Progress
from probes.reporting.text import result_text
from probes.request import ProbeRequest
from probes.runs.result import ProbeResult
from probes.runs.result_files import RESULT, write_result
from probes.runs.run import Outcome, run

REPORT, PREDICTIONS = "report.html", "predictions.parquet"


def answer(request: ProbeRequest, *, out: Path | None, as_json: bool) -> None:
    """Run the request, write the folder, print the result. Raises ProbeError before the run for a bad folder."""
    if out is not None:
        make_folder(out)
    progress = Progress()
    if request.split == "nested":
        from probes.runs.nested import run_nested

        result = run_nested(request, progress)
        if out is not None:
            write_files(result, out)
    else:
        outcome = run(request, progress)
        result = outcome.result
        if out is not None:
            write_outcome(outcome, out)
    emit(result, as_json=as_json, text=result_text)


def make_folder(out: Path, mark: str = RESULT) -> None:
    """Raises ProbeError where files lie but not `mark`, the file of a former result."""
    if out.exists() and any(out.iterdir()) and not (out / mark).exists():
        raise ProbeError(f"{out} holds other files. Name an empty or new folder with --out.")
    out.mkdir(parents=True, exist_ok=True)


def write_files(result: ProbeResult, out: Path) -> None:
    """result.json and report.html."""
    from probes.reporting.html import report_html

    write_result(result, out / RESULT)
    (out / REPORT).write_text(report_html(result), encoding="utf-8")


def write_outcome(outcome: Outcome, out: Path) -> None:
    """The result, its report, the test rows' probabilities, and the bundle."""
    from probes.runs.bundle import bundle_of, write_bundle

    write_files(outcome.result, out)
    write_bundle(bundle_of(outcome), out)
    _write_predictions(outcome, out / PREDICTIONS)


def _write_predictions(outcome: Outcome, path: Path) -> None:
    """One row a test image: key, group, truth and probability of each class."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data, rows = outcome.experiment.data, outcome.experiment.split.test
    columns: dict[str, object] = {
        "key": [data.keys[i] for i in rows],
        "group": [data.group_names[g] for g in data.groups[rows]],
    }
    truth = data.truth.take(rows)
    for j, name in enumerate(truth.classes):
        columns[f"p({name})"] = outcome.p[:, j]
        if truth.codes is None:
            columns[f"true({name})"] = pa.array(truth.positive[:, j], mask=np.asarray(~truth.known[:, j]))
    if truth.codes is not None:
        columns["true"] = [truth.classes[c] for c in truth.codes]
    pq.write_table(pa.table(columns), path)
