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
from indexer.pack.dicom_fields import dicom_fields, read_header
from indexer.pack.plan import Entry, ShardPlan
from indexer.pack.secret import KeyedHash, private_file
from indexer.pack.source import Source
from indexer.pack.tarball import write_shard

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
    site: str
    refuse_burned_in: bool

    def write(self, plan: ShardPlan, entries: Sequence[Entry]) -> list[FileOutcome]:
        """Write the shard, then its record; a shard without a record is written again by the next run."""
        outcomes: list[FileOutcome] = []
        record = self._record(plan)
        record.unlink(missing_ok=True)
        nbytes = write_shard(self.destination / plan.name, self._samples(entries, outcomes))
        facts = {"plan": plan.digest, "secret": self.keyed.fingerprint, "bytes": nbytes}
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

    def differs(self, plan: ShardPlan) -> bool:
        """Whether a complete shard of that name and of another plan exists."""
        return self._record(plan).exists() and (self.destination / plan.name).exists() and self.done(plan) is None

    def other_secret(self, shards: Sequence[str]) -> bool:
        """Whether one of these shards was written with another secret than this run's."""
        for name in shards:
            try:
                secret = json.loads((self.destination / PACK_STATE / f"{name}.json").read_text())["secret"]
            except (OSError, ValueError, KeyError, TypeError):
                continue  # not a shard of this program, or a damaged record: its secret is unknown
            if secret != self.keyed.fingerprint:
                return True
        return False

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
            metadata, note = self._metadata(entry, data)
            if metadata is None:  # as in `indexer index`: the patient of the image is unknown
                outcomes.append(FileOutcome(entry.path, entry.key, len(data), "", BAD_METADATA, note))
                continue
            if self.refuse_burned_in and metadata.get("burned_in"):  # instances of a server were not scanned before
                outcomes.append(FileOutcome(entry.path, entry.key, len(data), "", BURNED_IN))
                continue
            outcomes.append(FileOutcome(entry.path, entry.key, len(data), hashlib.sha256(data).hexdigest(), "", note))
            yield entry.key, entry.suffix, data, metadata

    def _metadata(self, entry: Entry, data: bytes) -> tuple[dict[str, Any] | None, str]:
        """The sample's metadata, and a note on what was unreadable; None for damaged JSON beside an image."""
        if entry.kind == "dicom" or entry.suffix in ("dcm", "dicom"):
            header = read_header(BytesIO(data)) if entry.kind == "dicom" else None
            if header is None:
                return dict(entry.row), "no readable DICOM header"
            return {**entry.row, **dicom_fields(header, self.keyed, self.site)}, ""
        beside = self.source.sidecar(entry.path)
        try:
            metadata = sidecar_fields(beside) if beside else {}
        except ValueError as error:
            return None, f"JSON beside it cannot be read: {error}"
        folder = entry.path.rpartition("/")[0].encode("utf-8", "replace").decode()
        if folder:
            metadata.setdefault("folder", folder)
            metadata.setdefault("label", folder.rpartition("/")[2])  # in a folder-per-class tree
        return {**metadata, **entry.row}, ""
