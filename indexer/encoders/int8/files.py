"""The quantised network of a table, as files in a folder named by their hash, so that none is ever overwritten."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from indexer.disk import fsync, make_directory, read_bounded
from indexer.encoders.backends.openvino_graph import imported
from indexer.encoders.int8.trial import GRAPH, WEIGHTS, tried
from indexer.errors import EncoderError, WeightsNotFound
from indexer.types import EncoderSpec

REPORT = "calibration.json"
MOST_BYTES = 8 << 30  # of a network's weights
WAY_OUT = "Copy the folder from the database that it was made with, or index into a new table."


def write(graph: Any, report: dict[str, Any], folder: Path) -> tuple[str, Path]:
    """Store a graph and what is known of it below `folder`; returns its hash ("sha256:<hex>") and its own folder."""
    make_directory(folder)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    try:
        imported().save_model(graph, str(partial / GRAPH), compress_to_fp16=False)
        digest = _digest(partial)
        (partial / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        for name in (GRAPH, WEIGHTS, REPORT):
            fsync(partial / name)
        own = folder / digest[:16]
        if not own.exists():
            partial.chmod(folder.stat().st_mode & 0o777)  # a temporary folder is private by default
            partial.rename(own)
            fsync(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return f"sha256:{digest}", own


def read(spec: EncoderSpec) -> Any:
    """The graph of `spec`, checked by its hash, and first read and run in a process of its own.

    A database may come from somebody else, and its hash then too. Raises WeightsNotFound where the network is missing
    or another one, EncoderError where it cannot be used.
    """
    own = Path(spec.network) / spec.calibration.removeprefix("sha256:")[:16]
    try:
        digest = _digest(own)
    except OSError as error:
        raise WeightsNotFound(
            f"the quantised network of this int8 table is not at {own} ({error.strerror}). {WAY_OUT}"
        ) from error
    if f"sha256:{digest}" != spec.calibration:
        raise WeightsNotFound(f"the quantised network at {own} is damaged or another one. {WAY_OUT}")
    imported()  # reports a missing package
    if fault := tried(own, spec):
        raise EncoderError(f"the quantised network at {own} cannot be used: {fault}. {WAY_OUT}")
    return imported().Core().read_model(str(own / GRAPH))


def _digest(folder: Path) -> str:
    whole = hashlib.sha256()
    for name in (GRAPH, WEIGHTS):
        whole.update(hashlib.sha256(read_bounded(folder / name, MOST_BYTES)).digest())
    return whole.hexdigest()
