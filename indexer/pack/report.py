"""The report of a run of `pack`, and a CSV with one line for every file."""

from __future__ import annotations

import csv
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from indexer.pack.catalogue import Catalogue
from indexer.pack.destination import Destination
from indexer.pack.plan import ShardPlan

KEPT, REMOVED = "kept", "de-identified"  # what became of DICOM headers


@dataclass(frozen=True)
class PackReport:
    """The counts of one run, or with `dry_run` of the run that would be made. files = packed + left out."""

    source: str
    headers: str  # of DICOM files: KEPT or REMOVED; "" where there were none
    destination: str
    dry_run: bool
    files: int
    packed: int
    left_out: dict[str, int]  # by reason
    kinds: dict[str, int]  # of the packed files
    shards: int
    shards_kept: int  # existed already, from an earlier run
    nbytes: int  # of the images
    same_instance: int  # files with the SOPInstanceUID of an earlier file
    same_bytes: int  # files with the bytes of an earlier file; known after reading
    burned_in: int  # packed, with BurnedInAnnotation YES
    whole_ids: int  # with a PatientID that the pattern does not match, which names the patient whole
    without_header: int  # DICOM by name, without a readable header
    files_without_row: int  # in the user's table
    rows_without_file: int
    secret: str  # path; "" where none was needed
    secret_made: bool
    list_of_files: str  # path or address of a CSV with every file, its key and its outcome; "" in a dry run
    seconds: float
    notes: tuple[str, ...] = ()


def list_files(destination: Destination, catalogue: Catalogue, plans: Sequence[ShardPlan]) -> None:
    """Write the list of files in path order."""
    with destination.listing() as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "shard", "key", "bytes", "left_out", "same_instance_as", "same_bytes_as", "note"))
        lasts = [plan.last for plan in plans]
        for path, first, key, nbytes, left_out, same_instance, same_bytes, note in catalogue.listing():
            shard, key = ("", "") if left_out else (plans[bisect_left(lasts, first)].name, key)
            counted = "" if nbytes is None else str(nbytes)
            writer.writerow((path, shard, key, counted, left_out, same_instance, same_bytes, note))
