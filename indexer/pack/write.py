"""Writes one shard: reads its files and metadata, writes the tar and a record of each file's outcome."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from indexer.archive.samples import sidecar_fields
from indexer.archive.walk import PACK_STATE
from indexer.errors import InputError, PixelError
from indexer.pack.headers.deidentify import CANNOT, deidentified
from indexer.pack.headers.dicom_fields import WHOLE_ID, PatientIds, dicom_fields, read_header
from indexer.pack.headers.secret import KeyedHash, private_file
from indexer.pack.plan import Entry, ShardPlan
from indexer.pack.source import Source
from indexer.pack.tarball import write_shard

NO_MATCH = "PatientID does not match --patient-pattern"
BURNED_IN = "burned-in annotation"
BAD_METADATA = "bad metadata"


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
    destination: Path
    keyed: KeyedHash
    patients: PatientIds
    refuse_burned_in: bool
    deidentify: bool = True  # DICOM headers
    folder_label: bool = True  # an image without a label of its own gets the name of its folder

    def write(self, plan: ShardPlan, entries: Sequence[Entry]) -> list[FileOutcome]:
        """Write the shard, then its record; a shard without a record is written again by the next run."""
        outcomes: list[FileOutcome] = []
        record = self._record(plan)
        record.unlink(missing_ok=True)
        nbytes = write_shard(self.destination / plan.name, self._samples(entries, outcomes))
        facts = {
            "plan": plan.digest,
            "secret": self.keyed.fingerprint,
            "bytes": nbytes,
            "deidentified": self.deidentify,
        }
        text = json.dumps(facts | {"files": [asdict(o) for o in outcomes]})
        partial = record.with_suffix(".partial")
        with private_file(partial) as file:
            file.write(text)
        partial.replace(record)
        return outcomes

    def done(self, plan: ShardPlan) -> list[FileOutcome] | None:
        """The outcomes of an existing shard of the same plan; None where it must be written."""
        shard, record = self.destination / plan.name, self._record(plan)
        try:
            found = json.loads(record.read_text())
            if found["plan"] == plan.digest and found["bytes"] == shard.stat().st_size:
                return [FileOutcome(**file) for file in found["files"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None  # no record, or a damaged one: the shard is written again
        return None

    def check_destination(self, plans: Sequence[ShardPlan], *, replace: bool) -> None:
        """Raise InputError for shards of another run in the destination; with `replace` they are deleted."""
        planned = {plan.name for plan in plans}
        surplus = [path for path in sorted(self.destination.glob("*.tar")) if path.name not in planned]
        others = [plan.name for plan in plans if self._differs(plan)] + [path.name for path in surplus]
        if others and not replace:
            raise InputError(f"{self.destination} {self._difference(others)}")
        for path in surplus:
            path.unlink()
            (self.destination / PACK_STATE / f"{path.name}.json").unlink(missing_ok=True)
        for cut in self.destination.glob("*.tar.partial"):
            cut.unlink()

    def _differs(self, plan: ShardPlan) -> bool:
        """Whether a complete shard of that name and of another plan exists."""
        return self._record(plan).exists() and (self.destination / plan.name).exists() and self.done(plan) is None

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
                facts = json.loads((self.destination / PACK_STATE / f"{name}.json").read_text())
            except (OSError, ValueError, RecursionError):
                continue
            if isinstance(facts, dict) and "secret" in facts:
                yield facts

    def _record(self, plan: ShardPlan) -> Path:
        return self.destination / PACK_STATE / f"{plan.name}.json"

    def _samples(
        self, entries: Sequence[Entry], outcomes: list[FileOutcome]
    ) -> Iterator[tuple[str, str, bytes, dict[str, Any]]]:
        for entry in entries:
            try:
                data = self.source.read(entry.path)
            except OSError as error:
                note = error.strerror or type(error).__name__
                outcomes.append(FileOutcome(entry.path, entry.key, entry.nbytes, "", "unreadable file", note))
                continue
            try:
                image, metadata, note = self._prepared(entry, data)
            except PixelError as error:
                outcomes.append(FileOutcome(entry.path, entry.key, len(data), "", error.reason, error.detail))
                continue
            outcomes.append(FileOutcome(entry.path, entry.key, len(data), hashlib.sha256(data).hexdigest(), "", note))
            yield entry.key, entry.suffix, image, metadata

    def _prepared(self, entry: Entry, data: bytes) -> tuple[bytes, dict[str, Any], str]:
        """The bytes and metadata to store, and a note on what was unreadable. Raises PixelError."""
        if not _is_dicom(entry):
            return data, *self._beside(entry)
        header = read_header(BytesIO(data)) if entry.kind == "dicom" else None
        if header is None:
            if self.deidentify:
                raise PixelError(CANNOT, "no readable DICOM header")
            return data, dict(entry.row), "no readable DICOM header"
        fields = dicom_fields(header, self.keyed, self.patients)
        if self.refuse_burned_in and fields.get("burned_in"):  # instances of a server were not scanned before
            raise PixelError(BURNED_IN)
        if self.deidentify:
            data = deidentified(data, self.keyed, fields.get("patient", ""))
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


def _is_dicom(entry: Entry) -> bool:
    return entry.kind == "dicom" or entry.suffix in ("dcm", "dicom")
