"""Writes one shard: reads its files and metadata, writes the tar and a record of each file's outcome."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

from indexer.archive.samples import sidecar_fields
from indexer.errors import InputError, PixelError
from indexer.memory.budget import MAX_IMAGE
from indexer.pack.destination import Destination
from indexer.pack.headers.deidentify import CANNOT, deidentified, parsed_whole
from indexer.pack.headers.dicom_fields import WHOLE_ID, PatientIds, dicom_fields, header_of, read_header
from indexer.pack.headers.secret import KeyedHash
from indexer.pack.plan import Entry, ShardPlan
from indexer.pack.source import Source
from indexer.pixels.dicom.series import packed_series

NO_MATCH = "PatientID does not match --patient-pattern"
BURNED_IN = "burned-in annotation"
BAD_METADATA = "bad metadata"
_ZIP_BYTES = 200  # of one file's headers in a zip, at most


@dataclass(frozen=True)
class FileOutcome:
    """The outcome of one file."""

    path: str
    key: str
    nbytes: int
    sha256: str
    left_out: str = ""
    note: str = ""


@dataclass(frozen=True)
class ShardWriter:
    """Writes shards with the settings of one run. Picklable."""

    source: Source
    destination: Destination
    keyed: KeyedHash
    patients: PatientIds
    refuse_burned_in: bool
    deidentify: bool = True  # DICOM headers
    folder_label: bool = True  # an image without a label of its own gets the name of its folder

    def write(self, plan: ShardPlan, entries: Sequence[Entry]) -> list[FileOutcome]:
        """Write the shard, then its record; a shard without a record is written again by the next run."""
        outcomes: list[FileOutcome] = []
        self.destination.forget(plan.name)
        nbytes = self.destination.write_shard(plan.name, self._samples(entries, outcomes))
        facts = {
            "plan": plan.digest,
            "secret": self.keyed.fingerprint,
            "bytes": nbytes,
            "deidentified": self.deidentify,
        }
        self.destination.write_record(plan.name, json.dumps(facts | {"files": [asdict(o) for o in outcomes]}))
        return outcomes

    def prepared(
        self, plans: Sequence[ShardPlan], take: Callable[[list[FileOutcome]], object], *, replace: bool
    ) -> set[str]:
        """The names of the shards of these plans that are there already; `take` is given the outcomes of each.

        Raises InputError for shards of another run in the destination; with `replace` they are deleted.
        """
        stored, there, others = self.destination.shards(), set[str](), list[str]()
        planned = {plan.name for plan in plans}
        for plan in plans:
            record = self.destination.record(plan.name) if plan.name in stored else None
            if record is None:
                continue
            outcomes = _outcomes(record, plan, stored[plan.name])
            if outcomes is None:
                others.append(plan.name)
            else:
                there.add(plan.name)
                take(outcomes)
        surplus = [name for name in sorted(stored) if name not in planned]
        others += surplus
        if others and not replace:
            raise InputError(f"{self.destination.name} {self._difference(others)}")
        for name in surplus:
            self.destination.remove(name)
        self.destination.sweep()
        return there

    def _difference(self, shards: Sequence[str]) -> str:
        """In what these shards differ from this run's, and the way out."""
        known = list(self._facts(shards))
        if any(facts["secret"] != self.keyed.fingerprint for facts in known):
            return (
                "was packed with another secret: its hashes would not match. Find that file and name it with "
                "--secret, overwrite all shards with --replace, or name an empty folder."
            )
        # version 0.1 kept all headers
        if any(facts.get("deidentified", False) != self.deidentify for facts in known):
            before, now = ("with", "without") if self.deidentify else ("without", "with")
            way = "give" if self.deidentify else "leave out"
            return (
                f"was packed {before} the DICOM files' own headers, and this run packs {now} them: {way} "
                "--keep-headers to go on as before, overwrite all shards with --replace, or name an empty folder."
            )
        return (
            f"holds shards of another run or of files that changed since ({shards[0]}). "
            "Overwrite them with --replace, or name an empty folder."
        )

    def _facts(self, shards: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The records of these shards. Without one a shard is not of this program, and nothing is known of it."""
        for name in shards:
            try:
                facts = json.loads(self.destination.record(name) or b"")
            except (OSError, ValueError, RecursionError):
                continue
            if isinstance(facts, dict) and "secret" in facts:
                yield facts

    def _samples(
        self, entries: Sequence[Entry], outcomes: list[FileOutcome]
    ) -> Iterator[tuple[str, str, bytes, dict[str, Any]]]:
        for entry in entries:
            read = list(self._read(entry.slices or (entry,), outcomes))
            if read and entry.slices:
                yield entry.key, entry.suffix, packed_series([image for image, _ in read]), _common(m for _, m in read)
            elif read:
                yield entry.key, entry.suffix, *read[0]

    def _read(self, files: Sequence[Entry], outcomes: list[FileOutcome]) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """The bytes and metadata to store of each file that can be read; `outcomes` gets what became of every one."""
        room = MAX_IMAGE
        for file in files:
            try:
                data = self.source.read(file.path)
            except OSError as error:
                note = error.strerror or type(error).__name__
                outcomes.append(FileOutcome(file.path, file.key, file.nbytes, "", "unreadable file", note))
                continue
            try:
                image, metadata, note = self._prepared(file, data)
                room -= len(image) + _ZIP_BYTES
                if room < 0:
                    raise PixelError("series too large", f"{file.path}: the files before it have {MAX_IMAGE:,} bytes")
            except PixelError as error:
                outcomes.append(FileOutcome(file.path, file.key, len(data), "", error.reason, error.detail))
                continue
            outcomes.append(FileOutcome(file.path, file.key, len(data), hashlib.sha256(data).hexdigest(), "", note))
            yield image, metadata

    def _prepared(self, entry: Entry, data: bytes) -> tuple[bytes, dict[str, Any], str]:
        """The bytes and metadata to store, and a note on what was unreadable. Raises PixelError."""
        if not _is_dicom(entry):
            return data, *self._beside(entry)
        dataset = _parsed(data) if self.deidentify and entry.kind == "dicom" else None
        header = None
        if entry.kind == "dicom":
            header = read_header(BytesIO(data)) if dataset is None else header_of(dataset)
        if header is None:
            if self.deidentify:
                raise PixelError(CANNOT, "no readable DICOM header")
            return data, dict(entry.row), "no readable DICOM header"
        fields = dicom_fields(header, self.keyed, self.patients)
        if self.refuse_burned_in and fields.get("burned_in"):  # instances of a server were not scanned before
            raise PixelError(BURNED_IN)
        if self.deidentify:
            data = deidentified(dataset or parsed_whole(data), self.keyed, fields.get("patient", ""))
        return data, {**entry.row, **fields}, NO_MATCH if fields.get("patient_from") == WHOLE_ID else ""

    def _beside(self, entry: Entry) -> tuple[dict[str, Any], str]:
        """The metadata of a file that is not DICOM. Raises PixelError: without them its patient is unknown."""
        try:
            beside = self.source.sidecar(entry.path)
            metadata = sidecar_fields(beside) if beside else {}
        except (OSError, ValueError) as error:
            raise PixelError(BAD_METADATA, f"JSON beside it cannot be read: {error}") from error
        folder = entry.path.rpartition("/")[0].encode("utf-8", "replace").decode()
        if folder:
            metadata.setdefault("folder", folder)
            if self.folder_label:
                metadata.setdefault("label", folder.rpartition("/")[2])  # in a folder-per-class tree
        return {**metadata, **entry.row}, ""


def _outcomes(record: bytes, plan: ShardPlan, nbytes: int) -> list[FileOutcome] | None:
    """Of a stored shard of that size, from its record; None where it is of another plan, or the record is damaged."""
    try:
        found = json.loads(record)
        if found["plan"] == plan.digest and found["bytes"] == nbytes:
            return [FileOutcome(**file) for file in found["files"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return None


def _common(slices: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """The fields in which all slices of a series agree: those of the series."""
    found = next(slices)
    for other in slices:
        found = {name: value for name, value in found.items() if name in other and other[name] == value}
    return found


def _parsed(data: bytes) -> Any | None:
    """The whole file's data set; None where it is damaged, behind the header perhaps."""
    try:
        return parsed_whole(data)
    except PixelError:
        return None


def _is_dicom(entry: Entry) -> bool:
    return entry.kind == "dicom" or entry.suffix in ("dcm", "dicom")
