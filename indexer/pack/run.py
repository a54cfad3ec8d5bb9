"""`pack`: list, look at every header, plan, write in several processes, report. Run again after a kill, it goes on."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from indexer.archive.walk import PACK_STATE, Found
from indexer.errors import InputError, ReadError
from indexer.pack.columns import Columns, Joined, join, read_columns
from indexer.pack.dicom_fields import FIELDS
from indexer.pack.folder import Folder
from indexer.pack.plan import Entry, ShardPlan, entries_of, is_dicom, shards_of
from indexer.pack.report import PackReport, list_files, same_bytes
from indexer.pack.secret import KeyedHash, load_secret
from indexer.pack.source import Scanned, Source
from indexer.pack.write import BURNED_IN, Outcome, ShardWriter

FEW = 512  # files: for fewer, starting other processes costs more than it saves
_CHUNK = 256  # files a worker looks at before it answers

Progress = Callable[[str, int, int], None]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class PackOptions:
    """What the user asked for."""

    source: str
    destination: Path
    secret: Path
    csv: Path | None = None
    on: str | None = None  # the table's column of paths
    hashed: tuple[str, ...] = ()  # the table's columns to store as keyed hashes
    site: str = ""  # stands in for a missing IssuerOfPatientID
    shard_bytes: int = 256 << 20
    shard_files: int = 10_000
    processes: int = 1
    refuse_burned_in: bool = False
    replace: bool = False  # write shards anew that another plan made
    dry_run: bool = False


@dataclass(frozen=True)
class _Plan:
    """Everything decided before the first byte is written."""

    files: int
    kept: tuple[Scanned, ...]
    left_out: Mapping[str, str]  # path → reason
    entries: tuple[Entry, ...]
    shards: tuple[ShardPlan, ...]
    keyed: KeyedHash
    secret: str
    secret_made: bool
    joined: Joined


def pack(options: PackOptions, *, progress: Progress = lambda *_: None, tell: Tell = lambda _: None) -> PackReport:
    """Raises InputError for what the user must change; `progress` hears (stage, done, of how many).

    `tell` hears, in words and at once, what the user must know even if the run fails later: that a secret was made.
    """
    started = time.monotonic()
    source = open_source(options.source)
    if isinstance(source, Folder) and options.destination.resolve().is_relative_to(source.root.resolve()):
        raise InputError(f"{options.destination} lies inside {source.root}: the next run would find its shards there.")
    found = list(source.list())
    with _workers(options.processes, len(found)) as executor:
        plan = _planned(options, source, found, executor, progress)
        if plan.secret_made:
            tell(
                f"A new secret was made: {plan.secret}. Keep it, and keep it private: without it the hashes of a later "
                "run will not match these, and with it they can be reversed."
            )
        outcomes: list[Outcome] = []
        kept_shards, listing = 0, ""
        if not options.dry_run:
            with _alone(options.destination):
                writer = ShardWriter(source, options.destination, plan.keyed, options.site, options.refuse_burned_in)
                outcomes, kept_shards = _write(writer, plan.shards, options.replace, executor, progress)
                shard_of = {entry.path: shard.name for shard in plan.shards for entry in shard.entries}
                listing = str(list_files(options.destination, shard_of, plan.entries, outcomes, plan.left_out))
    return _report(options, plan, outcomes, kept_shards, listing, time.monotonic() - started)


def _planned(
    options: PackOptions, source: Source, found: Sequence[Found], executor: Executor | None, progress: Progress
) -> _Plan:
    scanned = _scan(source, found, executor, progress)
    left_out = {item.found.path: item.left_out for item in scanned if item.left_out}
    if options.refuse_burned_in:
        left_out |= {item.found.path: BURNED_IN for item in scanned if item.burned_in}
    kept = tuple(item for item in scanned if item.found.path not in left_out)
    keyed, secret, made = _keyed(options, kept)
    rows, joined = _rows(options, kept, keyed)
    entries = tuple(entries_of(kept, rows, keyed))
    facts = f"{keyed.fingerprint}\0{options.site}\0{options.refuse_burned_in}"
    shards = tuple(shards_of(entries, options.shard_bytes, options.shard_files, facts))
    return _Plan(len(found), kept, left_out, entries, shards, keyed, secret, made, joined)


def _scan(
    source: Source, found: Sequence[Found], executor: Executor | None, progress: Progress
) -> list[Scanned]:  # fmt: skip
    chunks = [found[at : at + _CHUNK] for at in range(0, len(found), _CHUNK)]
    answers = (
        executor.map(_scan_chunk, repeat(source), chunks) if executor else map(_scan_chunk, repeat(source), chunks)
    )
    scanned: list[Scanned] = []
    for answer in answers:
        scanned += answer
        progress("looking at headers", len(scanned), len(found))
    return sorted(scanned, key=lambda item: item.found.path)


def _scan_chunk(source: Source, found: Sequence[Found]) -> list[Scanned]:
    return [source.scan(item) for item in found]


def _keyed(options: PackOptions, kept: Sequence[Scanned]) -> tuple[KeyedHash, str, bool]:
    """The keyed hash, where its secret lies, and whether that was made just now. No secret where nothing needs one."""
    needed = bool(options.hashed) or any(is_dicom(item) for item in kept)
    if not needed:
        return KeyedHash(b""), "", False
    if options.dry_run and not options.secret.exists():
        return KeyedHash(secrets.token_bytes(32)), str(options.secret), False
    keyed, made = load_secret(options.secret, outside=options.destination)
    return keyed, str(options.secret), made


def _rows(
    options: PackOptions, kept: Sequence[Scanned], keyed: KeyedHash
) -> tuple[dict[str, Mapping[str, Any]], Joined]:
    if options.csv is None:
        if options.on or options.hashed:
            raise InputError("--on and --hash name columns of a table; give it with --csv.")
        return {}, Joined({}, (), 0)
    columns: Columns = read_columns(options.csv, options.on, options.hashed, keyed)
    clash = sorted(columns.names & set(FIELDS))
    if clash and any(is_dicom(item) for item in kept):
        raise InputError(f"{options.csv} has columns that DICOM headers give too: {', '.join(clash)}. Rename them.")
    joined = join(columns, [item.found.path for item in kept])
    return {path: columns.rows[row] for path, row in joined.row_of.items()}, joined


@contextmanager
def _workers(processes: int, files: int) -> Iterator[Executor | None]:
    """Worker processes, or None where the work is done in this one."""
    if processes <= 1 or files < FEW:
        yield None
        return
    os.environ["PYTHONSAFEPATH"] = "1"  # the processes import nothing from the current folder
    executor = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def _alone(destination: Path) -> Iterator[None]:
    """Hold the destination: two runs would write the same names."""
    try:
        (destination / PACK_STATE).mkdir(parents=True, exist_ok=True)
        opened = (destination / PACK_STATE / "lock").open("w")
    except OSError as error:
        raise InputError(f"{destination} cannot be written to: {error.strerror}. Name another folder.") from error
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"another run packs into {destination}. Wait for it, or name another folder.") from error
        yield


def _write(
    writer: ShardWriter, plans: Sequence[ShardPlan], replace: bool, executor: Executor | None, progress: Progress
) -> tuple[list[Outcome], int]:
    """Outcomes in path order, and how many shards were whole already."""
    _check_destination(writer, plans, replace)
    outcomes = {plan.name: done for plan in plans if (done := writer.done(plan)) is not None}
    todo = [plan for plan in plans if plan.name not in outcomes]
    kept = len(outcomes)
    progress("writing shards", kept, len(plans))
    try:
        for plan, written in zip(todo, (executor.map if executor else map)(writer.write, todo), strict=True):
            outcomes[plan.name] = written
            progress("writing shards", len(outcomes), len(plans))
    except OSError as error:  # of the destination: a file that cannot be read is an outcome
        where = f"{error.filename or writer.destination} cannot be written: {error.strerror}"
        raise InputError(f"{where}. Mend that and run again: shards that are whole are kept.") from error
    except BrokenExecutor as error:
        raise ReadError(
            "a worker process was ended from outside, perhaps for want of memory. Run again with fewer --processes: "
            "shards that are whole are kept."
        ) from error
    return [outcome for plan in plans for outcome in outcomes[plan.name]], kept


def _check_destination(writer: ShardWriter, plans: Sequence[ShardPlan], replace: bool) -> None:
    """Other shards in the destination are an error, or go with --replace: no mixture of two runs is left behind."""
    planned = {plan.name for plan in plans}
    surplus = [path for path in sorted(writer.destination.glob("*.tar")) if path.name not in planned]
    others = [plan.name for plan in plans if writer.differs(plan)] + [path.name for path in surplus]
    if others and not replace and writer.other_secret(others):
        raise InputError(
            f"{writer.destination} was packed with another secret: its hashes would not match. Find that file and name "
            "it with --secret, write all shards anew with --replace, or name an empty folder."
        )
    if others and not replace:
        raise InputError(
            f"{writer.destination} holds shards of another run or of files that changed since ({others[0]}). "
            "Write them anew with --replace, or name an empty folder."
        )
    for path in surplus:
        path.unlink()
        (writer.destination / PACK_STATE / f"{path.name}.json").unlink(missing_ok=True)
    for partial in writer.destination.glob("*.tar.partial"):
        partial.unlink()


def _report(
    options: PackOptions, plan: _Plan, outcomes: Sequence[Outcome], kept_shards: int, listing: str, seconds: float
) -> PackReport:
    reasons = Counter(plan.left_out.values()) + Counter(o.left_out for o in outcomes if o.left_out)
    unused = plan.joined.rows_unused
    named = f"rows that no file answers to: {', '.join(unused[:5])}{', …' if len(unused) > 5 else ''}"
    return PackReport(
        source=options.source,
        destination=str(options.destination),
        dry_run=options.dry_run,
        files=plan.files,
        packed=plan.files - sum(reasons.values()),
        left_out=dict(sorted(reasons.items())),
        kinds=dict(sorted(Counter(e.kind or f"{e.suffix} by name only" for e in plan.entries).items())),
        shards=len(plan.shards),
        shards_kept=kept_shards,
        nbytes=sum(o.nbytes for o in outcomes) or sum(e.nbytes for e in plan.entries),
        same_instance=sum(1 for e in plan.entries if e.same_instance_as),
        same_bytes=len(same_bytes(outcomes)),
        burned_in=sum(1 for item in plan.kept if item.burned_in),
        without_header=sum(1 for o in outcomes if o.note == "no readable DICOM header"),
        files_without_row=plan.joined.files_without_row,
        rows_without_file=len(unused),
        secret=plan.secret,
        secret_made=plan.secret_made,
        list_of_files=listing,
        seconds=seconds,
        notes=(named,) if unused else (),
    )


def open_source(name: str) -> Source:
    """The source that the user's first argument names. Raises InputError."""
    if name.startswith("dicomweb+"):
        from indexer.pack.dicomweb import DicomWeb  # needs an extra

        return DicomWeb.from_url(name)
    if "://" in name:
        raise InputError(f"{name}: pack reads a folder, or dicomweb+http://host:port/dicom-web?Modality=MR.")
    return Folder(Path(name))
