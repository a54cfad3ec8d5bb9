"""A request from a command line → the result printed, and written where it was asked for."""

from __future__ import annotations

from pathlib import Path

from indexer.options import emit
from probes.presets import with_preset
from probes.progress import Progress
from probes.records import Request
from probes.run import run
from probes.text import result_text


def answer(request: Request, *, out: Path | None, as_json: bool) -> None:
    """Run the request, write the folder, print the result."""
    outcome = run(with_preset(request), Progress())
    emit(outcome.result, as_json=as_json, text=result_text)
