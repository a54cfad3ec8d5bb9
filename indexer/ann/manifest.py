"""What an index file is, where it comes from and how good it was measured to be: `manifest.json`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from indexer.errors import IndexFileError

FORMAT = 1
NAME = "manifest.json"
READ_BYTES = 1 << 22


@dataclass(frozen=True)
class FileFact:
    """A file of the index, by name inside its directory."""

    name: str
    nbytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileFact:
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while chunk := stream.read(READ_BYTES):
                digest.update(chunk)
        return cls(path.name, path.stat().st_size, digest.hexdigest())


@dataclass(frozen=True)
class Measured:
    """How the finished index answers queries that were not used to choose its settings."""

    recall_at_10: float  # against exact search on the same rows; a query's own row counts on neither side
    p50_ms: float  # one query at a time, re-ranking included
    queries_per_second: float  # many at once
    queries: int  # how many the figures stand on


@dataclass(frozen=True)
class Settings:
    """Search-time settings that reach the recall asked for."""

    nprobe: int  # inverted lists looked into, or efSearch of a graph; 0 where the index is exact
    rerank: int  # candidates re-ranked from stored vectors for a result of 10


@dataclass(frozen=True)
class Manifest:
    """The whole content of manifest.json."""

    table: str
    fingerprint: str  # EncoderSpec.fingerprint of the vectors
    version: int  # of the table
    tag: str  # keeps that version from clean-up
    generation: str  # part of every file name; a new build never overwrites files in use
    rows: int
    dim: int
    kind: str  # a name of indexer.ann.kinds
    factory: str  # FAISS factory string
    nlist: int
    settings: Settings
    recall_target: float
    latency_ms: float  # asked for
    measured: Measured
    build_seconds: float
    rows_at_build: int  # when the index was trained; what came later was added by refreshes
    refreshed_rows: int  # inserted, updated and deleted by refreshes since
    stale: int  # entries in the index whose row is gone or has another vector; searches drop them
    built_at: str  # ISO 8601, UTC
    faiss_version: str
    files: dict[str, FileFact]  # index, vectors, row_ids, keys
    ids: str = "Lance stable row ids"
    metric: str = "inner product of unit rows (cosine)"
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        facts: dict[str, Any] = json.loads(text)
        if facts.get("format", 0) > FORMAT:
            raise ValueError(f"format {facts['format']} is newer than this version's {FORMAT}")
        facts["settings"] = Settings(**facts["settings"])
        facts["measured"] = Measured(**facts["measured"])
        facts["files"] = {role: FileFact(**fact) for role, fact in facts["files"].items()}
        unknown = set(facts) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown fields {sorted(unknown)}")
        return cls(**facts)


def read_manifest(directory: Path) -> Manifest | None:
    """None where no index was ever built. Raises IndexFileError where the manifest cannot be understood."""
    try:
        text = (directory / NAME).read_text()
    except FileNotFoundError:
        return None
    try:
        return Manifest.from_json(text)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IndexFileError(f"{directory / NAME} is damaged ({error}). {WAY_OUT}") from error


WAY_OUT = "Build it anew with `indexer build-ann`, or search without it (`indexer search --exact`)."
