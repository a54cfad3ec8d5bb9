"""`pack`: lists files, reads headers, plans, writes shards in several processes, reports. A killed run is resumed."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from indexer.archive.walk import ListedFile
from indexer.errors import InputError, ReadError, sentence
from indexer.pack.catalogue import IS_DICOM, Catalogue, paged
from indexer.pack.columns import Columns, read_columns
from indexer.pack.destination import Destination, destination_of
from indexer.pack.folder import Folder
from indexer.pack.headers.deidentify import CANNOT
from indexer.pack.headers.dicom_fields import FIELDS, PatientIds
from indexer.pack.headers.secret import KeyedHash, default_secret, load_secret
from indexer.pack.join import Joined, join
from indexer.pack.plan import Entry, Rows, ShardPlan, differing_columns, entries, set_keys, shards_of, stem_of
from indexer.pack.report import KEPT, REMOVED, PackReport, list_files
from indexer.pack.source import Scanned, Source
from indexer.pack.workers import mapped, workers
from indexer.pack.write import BURNED_IN, NO_MATCH, FileOutcome, ShardWriter
from indexer.progress.silent import SILENT
from indexer.types import KeyRule, Progress

HEADERS = 3  # of what is stored of DICOM headers; part of the plan's digest
_CHUNK = 256  # files scanned by a worker in one task


@dataclass(frozen=True)
class PackOptions:
    """The options of `indexer pack`."""

    source: str
    destination: Path | str  # a folder, or the address of a prefix in a bucket
    secret: Path | None = None  # None: the default path, created on first use
    new_secret: bool = False  # create `secret` where it is missing
    csv: Path | None = None
    on: str | None = None  # the table's column of paths
    encoding: str | None = None  # the table's, if it is CSV; None: by its byte order mark, else UTF-8
    hashed: tuple[str, ...] = ()  # the table's columns to store as keyed hashes
    site: str = ""  # used for a missing IssuerOfPatientID
    patient_pattern: str = ""  # the part of PatientID that names the patient
    split: str = KeyRule.split  # first-dot: keys without a dot
    shard_bytes: int = 256 << 20
    shard_files: int = 10_000
    processes: int = 1
    refuse_burned_in: bool = False
    keep_headers: bool = False  # of DICOM files; else they are de-identified
    follow_links: bool = False  # also out of the source
    series: bool = False  # the single files of each DICOM series become one image
    replace: bool = False  # overwrite shards of another plan
    dry_run: bool = False


@dataclass(frozen=True)
class _Plan:
    """The plan of a run, beside the facts of each file in the catalogue."""

    files: int
    rows: Rows
    shards: tuple[ShardPlan, ...]
    keyed: KeyedHash
    secret: str
    secret_made: bool
    joined: Joined
    notes: tuple[str, ...]  # on the columns of the table
    folder_label: bool


def pack(options: PackOptions, *, progress: Progress = SILENT) -> PackReport:
    """Raises InputError for what the user must change.

    `progress.note` is called at once with what the user must know even if the run fails later: that a secret was made.
    """
    started = time.monotonic()
    destination = destination_of(options.destination)
    source = open_source(options.source, follow_links=options.follow_links)
    if options.series and not isinstance(source, Folder):
        raise InputError("--series is for folders: a server does not say which instances have several frames.")
    inside = destination.folder
    if isinstance(source, Folder) and inside is not None and inside.resolve().is_relative_to(source.root.resolve()):
        raise InputError(f"{inside} lies inside {source.root}: the next run would find its shards there.")
    with Catalogue() as catalogue:
        with progress.stage("listing files"):
            files = catalogue.add(source.list())
        if not files and isinstance(source, Folder):
            raise InputError(f"{options.source} holds no file to pack. Name the folder of the images.")
        with workers(options.processes, files) as executor:
            labelled = _scan(options, source, catalogue, executor, progress)
            plan = _planned(options, destination, catalogue, files, labelled=labelled)
            if plan.secret_made:
                progress.note(
                    f"A new secret was made: {plan.secret}. Keep it, and keep it private: without it the hashes of a "
                    "later run will not match these, and with it they can be reversed."
                )
            kept_shards, listing = 0, ""
            if not options.dry_run:
                with destination.alone(), _written_to(destination):
                    writer = ShardWriter(
                        source, destination, plan.keyed,
                        PatientIds(options.site, options.patient_pattern), options.refuse_burned_in,
                        not options.keep_headers, plan.folder_label,
                    )  # fmt: skip
                    kept_shards = _write(writer, plan, catalogue, options, executor, progress)
                    list_files(destination, catalogue, plan.shards)
                    listing = destination.list_name
        return _report(options, destination, plan, catalogue, kept_shards, listing, time.monotonic() - started)


def _scan(
    options: PackOptions, source: Source, catalogue: Catalogue, executor: Executor | None, progress: Progress
) -> bool:
    """Look at the header of every file; whether JSON beside an image holds a label."""
    chunks = paged(catalogue.found(), _CHUNK)
    done, labelled = 0, False
    with progress.stage("reading headers", catalogue.count("1")):
        for answer in mapped(executor, partial(_scan_chunk, source), chunks, options.processes):
            catalogue.record(answer, stem_of, partial(_why_left_out, options))
            labelled |= any(item.labels for item in answer)
            done += len(answer)
            progress.advance(len(answer), files=done)
    return labelled


def _why_left_out(options: PackOptions, item: Scanned) -> str:
    """The reason why a file is not packed, by its header; "" where it is."""
    if item.left_out:
        return item.left_out
    if options.refuse_burned_in and item.burned_in:
        return BURNED_IN
    return CANNOT if not item.readable and not options.keep_headers else ""


def _scan_chunk(source: Source, found: Sequence[ListedFile]) -> list[Scanned]:
    return [source.scan(item) for item in found]


def _planned(
    options: PackOptions, destination: Destination, catalogue: Catalogue, files: int, *, labelled: bool
) -> _Plan:
    """`labelled`: whether JSON beside an image holds a label. Labels come from folder names only where nothing else
    gives any: else images without a label would form further classes.
    """
    dicom = catalogue.count(f"left_out = '' AND ({IS_DICOM})") > 0
    keyed, secret, made = _keyed(options, destination, needed=dicom or bool(options.hashed))
    rows, joined, notes = _rows(options, catalogue, keyed, dicom=dicom)
    if options.series:
        catalogue.group_series()
        if not catalogue.series():
            raise InputError(f"--series: {options.source} holds no DICOM series of single files. Leave it out.")
        notes = (*notes, f"{catalogue.series():,} series are one image each, whose parts are its slices by position")
    set_keys(catalogue, keyed, split=options.split)
    if options.series and (differing := differing_columns(entries(catalogue, rows))):
        notes = (*notes, f"left out of series whose slices differ in them: {', '.join(differing)}")
    facts = f"{keyed.fingerprint}\0{options.site}\0{options.refuse_burned_in}"
    if options.patient_pattern:
        facts += f"\0patient\0{options.patient_pattern}"
    if dicom:
        facts += f"\0{HEADERS}\0{options.keep_headers}"
    given = sum(row.get("label") is not None for row in rows.values())
    folder_label = not given and not labelled
    if options.series:
        facts += "\0series"
    if not folder_label:
        facts += "\0no label from folders"
        if given < catalogue.count("left_out = ''"):
            notes = (*notes, "labels are those that the table or JSON gives: images without one get none from a folder")
    shards = tuple(shards_of(catalogue, rows, options.shard_bytes, options.shard_files, facts))
    return _Plan(files, rows, shards, keyed, secret, made, joined, notes, folder_label)


def _keyed(options: PackOptions, destination: Destination, *, needed: bool) -> tuple[KeyedHash, str, bool]:
    """The keyed hash, the path of its secret, and whether that was just created. No secret is used unless needed."""
    if not needed:
        return KeyedHash(b""), "", False
    path = options.secret or default_secret()
    make = options.new_secret or options.secret is None
    if options.dry_run and make and not path.exists():
        return KeyedHash(secrets.token_bytes(32)), str(path), False
    keyed, made = load_secret(path, outside=destination.folder, make=make)
    return keyed, str(path), made


def _rows(
    options: PackOptions, catalogue: Catalogue, keyed: KeyedHash, *, dicom: bool
) -> tuple[Rows, Joined, tuple[str, ...]]:
    if options.csv is None:
        if options.on or options.hashed or options.encoding:
            raise InputError("--on, --hash and --encoding are about a table; give it with --csv.")
        return {}, Joined(), ()
    columns: Columns = read_columns(options.csv, options.on, options.hashed, keyed, options.encoding)
    clash = sorted(columns.names & set(FIELDS))
    if clash and dicom:
        raise InputError(f"{options.csv} has columns that DICOM headers give too: {', '.join(clash)}. Rename them.")
    joined = join(columns.rows, lambda: (item.found.path for item, _, _ in catalogue.kept()))
    if not joined.row_of:
        files = ", ".join(item.found.path for item, _, _ in islice(catalogue.kept(), 3))
        raise InputError(
            f"{options.csv}: no row of {len(columns.rows):,} names a file. Its column {columns.on} has "
            f"{', '.join(islice(columns.rows, 3)) or 'no value'}; the files are {files or 'none'}. "
            "Name the column of paths with --on."
        )
    return {path: columns.rows[row] for path, row in joined.row_of.items()}, joined, columns.notes


@contextmanager
def _written_to(destination: Destination) -> Iterator[None]:
    """Raises InputError for errors of the destination; an unreadable source file is an outcome, not an error."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename or destination.name} cannot be written: {error.strerror or sentence(error)}"
        raise InputError(f"{where}. Fix that and run again: complete shards are kept.") from error


def _write(
    writer: ShardWriter,
    plan: _Plan,
    catalogue: Catalogue,
    options: PackOptions,
    executor: Executor | None,
    progress: Progress,
) -> int:
    """Write the missing shards and store each file's outcome in the catalogue; returns how many shards were kept."""
    plans = plan.shards
    there = writer.prepared(plans, catalogue.set_outcomes, replace=options.replace)
    todo = [shard for shard in plans if shard.name not in there]
    done = kept = len(plans) - len(todo)
    work = ((shard, list(entries(catalogue, plan.rows, shard))) for shard in todo)
    try:
        with progress.stage("writing shards", len(plans)):
            progress.advance(kept, shards=kept)
            for written in mapped(executor, partial(_write_shard, writer), work, options.processes):
                catalogue.set_outcomes(written)
                done += 1
                progress.advance(shards=done)
    except BrokenExecutor as error:
        raise ReadError(
            "a worker process was ended from outside, perhaps for want of memory. Run again with fewer --processes: "
            "complete shards are kept."
        ) from error
    return kept


def _write_shard(writer: ShardWriter, work: tuple[ShardPlan, Sequence[Entry]]) -> list[FileOutcome]:
    return writer.write(*work)


def _report(
    options: PackOptions,
    destination: Destination,
    plan: _Plan,
    catalogue: Catalogue,
    kept_shards: int,
    listing: str,
    seconds: float,
) -> PackReport:
    reasons = catalogue.reasons()
    return PackReport(
        source=options.source,
        headers=_headers(catalogue, options.keep_headers),
        destination=destination.name,
        dry_run=options.dry_run,
        files=plan.files,
        packed=plan.files - sum(reasons.values()),
        left_out=reasons,
        kinds=catalogue.kinds(),
        shards=len(plan.shards),
        shards_kept=kept_shards,
        nbytes=catalogue.total("SUM(read_bytes)") or catalogue.total("SUM(nbytes)"),
        same_instance=catalogue.total("SUM(same_instance != '')"),
        same_bytes=catalogue.total("COUNT(sha256) - COUNT(DISTINCT sha256)"),
        burned_in=catalogue.total("SUM(burned_in)"),
        whole_ids=catalogue.total(f"SUM(note = '{NO_MATCH}')"),
        without_header=catalogue.total("SUM(note = 'no readable DICOM header')"),
        files_without_row=plan.joined.files_without_row,
        rows_without_file=len(plan.joined.rows_unused),
        secret=plan.secret,
        secret_made=plan.secret_made,
        list_of_files=listing,
        seconds=seconds,
        notes=(*plan.notes, *plan.joined.notes()),
    )


def _headers(catalogue: Catalogue, keep: bool) -> str:
    if not catalogue.count(f"left_out = '' AND ({IS_DICOM})"):
        return ""
    return KEPT if keep else REMOVED


def open_source(name: str, *, follow_links: bool = False) -> Source:
    """The source that the user's first argument names. Raises InputError."""
    if not name:  # `Path` would take it for the current folder
        raise InputError("the name of the source is empty. Name a folder, or a server as `indexer pack -h` shows.")
    if name.startswith("dicomweb+"):
        from indexer.pack.dicomweb import DicomWeb  # requires an extra

        return DicomWeb.from_url(name)
    if "://" in name:
        raise InputError(f"{name} is no folder and no DICOMweb server. Name one as `indexer pack -h` shows.")
    return Folder(Path(name), follow_links)
