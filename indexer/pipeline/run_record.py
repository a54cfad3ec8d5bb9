"""A record of each run beside the table: summary.md for people, manifest.json for programs.

It is written when the run begins and again when it ends, whatever the outcome. A record that still has the status
"running" when the next run begins is of a run that was killed; its status becomes "died". Passwords, tokens and
signatures are removed from all addresses.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from indexer.cores import cores
from indexer.errors import StoreError, TooManyFailures
from indexer.pipeline.records.files import MANIFEST, Beside, RunFiles, run_files
from indexer.redact import redacted
from indexer.store.lance_errors import writing
from indexer.store.table import EmbeddingStore
from indexer.types import RunReport

FORMAT = 1
SUMMARY = "summary.md"
PACKAGES = ("embedding-indexer", "torch", "pylance", "lancedb", "pyarrow", "numpy", "pillow", "open-clip-torch", "timm")
LOOKED_BACK = 10  # newest records of earlier runs in which runs that died are looked for


class RunRecord:
    """The record of the current run; `report` is set once there is one."""

    def __init__(self, files: RunFiles, name: str, facts: dict[str, Any]) -> None:
        self._files, self._name = files, name
        self.report: RunReport | None = None
        self.beside = Beside(files.where, name)  # for small files that belong to the run
        self._facts = facts
        self._start = time.perf_counter()

    def write(self, status: str, error: BaseException | None = None) -> None:
        """Raises OSError."""
        facts = self._facts | {"status": status, "seconds": round(time.perf_counter() - self._start, 3)}
        if status != "running":
            facts["ended_at"] = _now().isoformat(timespec="seconds")
        if error is not None:
            facts["error"] = {"kind": type(error).__name__, "message": redacted(str(error))}
        if self.report is not None:
            facts["report"] = _without_secrets(asdict(self.report))
        _write(self._files, self._name, facts)


@contextmanager
def recorded(store: EmbeddingStore, command: Sequence[str], facts: dict[str, Any]) -> Iterator[RunRecord]:
    """Writes the run's record on entry and again on exit. The caller must hold the table's lock.

    `facts` describe the run, e.g. its options.
    """
    files = run_files(store)
    with writing(f"the record of this run in {files.where}"):
        _mark_died(files)
        name = files.new(_now().strftime("%Y%m%dT%H%M%SZ"))
        record = RunRecord(files, name, _facts(store, command) | facts)
        record.write("running")
    try:
        yield record
    except BaseException as error:
        stopped = isinstance(error, (TooManyFailures, KeyboardInterrupt))
        with suppress(OSError):  # a failure to write the record must not hide the error itself
            record.write("stopped" if stopped else "failed", error)
        raise
    interrupted = record.report is not None and record.report.interrupted
    with writing(f"the record of this run in {files.where}"):
        record.write("interrupted" if interrupted else "done")


def runs(store: EmbeddingStore) -> list[dict[str, Any]]:
    """The manifests of all recorded runs, oldest first."""
    files = run_files(store)
    try:
        found = [files.read(name) for name in files.names()]
    except OSError as error:
        raise StoreError(f"the records of runs in {files.where} cannot be read: {error}.") from error
    return [facts for facts in found if facts is not None]


def _facts(store: EmbeddingStore, command: Sequence[str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "command": [redacted(word) for word in command],
        "started_at": _now().isoformat(timespec="seconds"),
        "process": os.getpid(),
        "table": store.name,
        "table_version_before": store.version,
        "encoder": json.loads(store.spec.to_json()),
        "fingerprint": store.spec.fingerprint,
        "versions": {"python": sys.version.split()[0]} | {p: v for p in PACKAGES if (v := _version(p)) is not None},
        "machine": {"system": platform.platform(), "cores": cores()},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {redacted(k): _without_secrets(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_secrets(v) for v in value]
    return redacted(value) if isinstance(value, str) else value


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _mark_died(files: RunFiles) -> None:
    """Set the status of runs that died: with the lock held, no earlier run can still be "running"."""
    for name in files.names()[-LOOKED_BACK:]:
        facts = files.read(name)
        if facts is not None and facts.get("status") == "running":
            _write(files, name, facts | {"status": "died"})


def _write(files: RunFiles, name: str, facts: dict[str, Any]) -> None:
    files.write(name, MANIFEST, (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())
    files.write(name, SUMMARY, summary(facts).encode())


def summary(facts: dict[str, Any]) -> str:
    """The record as Markdown."""
    report = facts.get("report") or {}
    lines = [
        f"# Run of {facts['started_at']}: {facts['status']}",
        "",
        f"`{' '.join(facts['command']) or 'called from a program'}`",
        "",
    ]
    if "error" in facts:
        lines += [f"**{facts['error']['kind']}**: {facts['error']['message']}", ""]
    encoder = facts["encoder"]
    rows = {
        "table": f"{facts['table']} (version {facts['table_version_before']} before)",
        "encoder": f"{encoder['name']}, weights {encoder['weights']}, {encoder['precision']}",
        "fingerprint": facts["fingerprint"],
        "seconds": f"{facts['seconds']:.1f}",
    }
    rows |= {name: str(report[name]) for name in _COUNTS if name in report}
    if report:
        rows["images a second"] = f"{report['images_per_second']:.1f}"
        rows["bottleneck"] = report["bottleneck"]
    rows["versions"] = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines += ["| | |", "|---|---|", *(f"| {name.replace('_', ' ')} | {_cell(text)} |" for name, text in rows.items())]
    for title, counts in (("Failures", "reasons"), ("Noted", "flags"), ("Kept in `meta` only", "columns_skipped")):
        if report.get(counts):
            lines += ["", f"## {title}", "", *(f"- {n} × {_cell(reason)}" for reason, n in report[counts].items())]
    if report.get("series_flaws"):
        flaws = (f"- {own['series']} × {_cell(own['flaw'])}" for own in report["series_flaws"])
        lines += ["", "## Flaws of series", "", *flaws]
    if report.get("warnings"):
        lines += ["", "## Warnings", "", *(f"- {_cell(text)}" for text in report["warnings"])]
    return "\n".join(lines) + "\n"


_COUNTS = ("shards_done", "shards_skipped", "shards_partial", "images", "embedded", "reused", "adopted", "failed")


def _cell(text: str) -> str:
    """Text for one cell of a Markdown table: unprintable characters become spaces, "|" and "<" are escaped."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return plain.replace("|", "\\|").replace("<", "&lt;")
