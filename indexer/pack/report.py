"""What a run of `pack` says of itself: counts that add up, and a line for every file."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.archive.walk import PACK_STATE
from indexer.pack.plan import Entry
from indexer.pack.write import Outcome


@dataclass(frozen=True)
class PackReport:
    """What one run did, or with `dry_run` would do. files = packed + left out, always."""

    source: str
    destination: str
    dry_run: bool
    files: int
    packed: int
    left_out: dict[str, int]  # by reason
    kinds: dict[str, int]  # of the packed files
    shards: int
    shards_kept: int  # were there already, from a run before
    nbytes: int  # of the images
    same_instance: int  # files whose SOPInstanceUID an earlier file has
    same_bytes: int  # files whose bytes an earlier file has; known once they were read
    burned_in: int  # packed, with BurnedInAnnotation YES
    without_header: int  # DICOM by name, without a readable header
    files_without_row: int  # in the user's table
    rows_without_file: int
    secret: str  # where it lies; "" where none was needed
    secret_made: bool
    list_of_files: str  # a CSV of every file, its key, and what became of it; "" in a dry run
    seconds: float
    notes: tuple[str, ...] = ()


def same_bytes(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Path → the key of the first file with the same bytes, for every later one."""
    first: dict[str, str] = {}
    copies: dict[str, str] = {}
    for outcome in outcomes:
        if outcome.sha256 and first.setdefault(outcome.sha256, outcome.key) != outcome.key:
            copies[outcome.path] = first[outcome.sha256]
    return copies


def list_files(
    destination: Path, shard_of: Mapping[str, str], entries: Sequence[Entry], outcomes: Sequence[Outcome],
    left_out: Mapping[str, str],
) -> Path:  # fmt: skip
    """Write the list of files in path order, readable by its owner alone: it holds the archive's own paths."""
    target = destination / PACK_STATE / "files.csv"
    partial = target.with_suffix(".partial")
    copies, same_instance = same_bytes(outcomes), {e.path: e.same_instance_as for e in entries}
    rows = [
        (
            o.path,
            "" if o.left_out else shard_of[o.path],
            "" if o.left_out else o.key,
            str(o.nbytes),
            o.left_out,
            same_instance[o.path],
            copies.get(o.path, ""),
            o.note,
        )
        for o in outcomes
    ]
    rows += [(path, "", "", "", reason, "", "", "") for path, reason in left_out.items()]
    opened = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(opened, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "shard", "key", "bytes", "left_out", "same_instance_as", "same_bytes_as", "note"))
        writer.writerows(sorted(rows))
    partial.replace(target)
    return target
