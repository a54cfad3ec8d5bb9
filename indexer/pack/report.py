"""The report of a run of `pack`, and the CSV with a line for every file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.archive.walk import PACK_STATE
from indexer.pack.catalogue import Catalogue
from indexer.pack.plan import ShardPlan
from indexer.pack.secret import private_file


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


def list_files(destination: Path, catalogue: Catalogue, plans: Sequence[ShardPlan]) -> Path:
    """Write the list of files in path order, readable by its owner alone: it holds the archive's own paths."""
    target = destination / PACK_STATE / "files.csv"
    partial = target.with_suffix(".partial")
    with private_file(partial) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "shard", "key", "bytes", "left_out", "same_instance_as", "same_bytes_as", "note"))
        at = 0
        for path, key, nbytes, left_out, same_instance, same_bytes, note in catalogue.listing():
            while at < len(plans) and plans[at].last < path:
                at += 1
            shard, key = ("", "") if left_out else (plans[at].name, key)
            counted = "" if nbytes is None else str(nbytes)
            writer.writerow((path, shard, key, counted, left_out, same_instance, same_bytes, note))
    partial.replace(target)
    return target
