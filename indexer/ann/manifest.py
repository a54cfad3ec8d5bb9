"""`manifest.json`: what an index was built from, its files with their hashes, and its measured recall and speed."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from indexer.ann.exact import ROUNDING
from indexer.disk import read_small
from indexer.errors import IndexFileError

FORMAT = 2  # 2: names the table's identity and the version's commit
WITH_QUERIES = 3  # the format of an index that was measured with given queries, which it names
NAME = "manifest.json"
READ_BYTES = 1 << 22
MOST = 2**31  # lists to look into, rows to re-rank
GENERATION = re.compile(r"[A-Za-z0-9-]{1,80}")
FILES = {  # role → name of a generation's file
    "index": "index-{}.faiss",
    "vectors": "vectors-{}.f16",
    "row_ids": "row_ids-{}.i64",
    "keys": "keys-{}.arrow",
}


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
    """Recall and speed of the finished index, by queries that were not used to choose its settings."""

    recall_at_10: float  # against exact search on the same rows; a query's own row counts on neither side
    p50_ms: float  # one query at a time, re-ranking included
    queries_per_second: float  # many at once
    queries: int  # number of queries measured


@dataclass(frozen=True)
class Settings:
    """Search-time settings that reach the requested recall."""

    nprobe: int  # inverted lists searched, or efSearch of a graph; 0 where the index is exact
    rerank: int  # candidates re-ranked from stored vectors for a result of 10


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json."""

    table: str
    fingerprint: str  # EncoderSpec.fingerprint of the vectors
    version: int  # of the table
    tag: str  # Lance tag that protects that version from clean-up
    generation: str  # part of every file name; a new build never overwrites files in use
    rows: int
    dim: int
    kind: str  # a name of indexer.ann.kinds
    factory: str  # FAISS factory string
    nlist: int
    settings: Settings
    recall_target: float
    latency_ms: float  # requested
    measured: Measured
    build_seconds: float
    rows_at_build: int  # when the index was trained; later rows were added by refreshes
    refreshed_rows: int  # inserted, updated and deleted by refreshes since
    stale: int  # entries of the index whose row was deleted or has another vector; searches drop them
    built_at: str  # ISO 8601, UTC
    faiss_version: str
    files: dict[str, FileFact]  # index, vectors, row_ids, keys
    identity: str = ""  # of the table; "" in format 1, and where the table is of format 1
    commit: str = ""  # that made `version`; "" in format 1
    kind_asked: str | None = None  # the kind requested by the goal; None where it was chosen by measurement
    slack: float = ROUNDING  # upper bound on the difference of a stored row's length from 1
    queries: str = ""  # the given queries it was measured with; "": rows of the table that were held out
    ids: str = "Lance stable row ids"
    metric: str = "cosine"  # entries are unit rows; ranking divides by the stored rows' own lengths
    format: int = FORMAT

    def to_json(self) -> str:
        facts = asdict(self)
        if not self.queries:  # earlier versions do not know the field
            del facts["queries"]
        return json.dumps(facts, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        facts: dict[str, Any] = json.loads(text)
        if facts.get("format", 0) > WITH_QUERIES:
            raise ValueError(f"format {facts['format']} is newer than this version's {WITH_QUERIES}")
        facts["settings"] = Settings(**facts["settings"])
        facts["measured"] = Measured(**facts["measured"])
        facts["files"] = {role: FileFact(**fact) for role, fact in facts["files"].items()}
        manifest = cls(**facts)
        manifest._check()
        return manifest

    def _check(self) -> None:
        """Check types, names and sizes; names must not lead out of the directory. Raises ValueError, TypeError."""
        _check_types(self)
        _check_types(self.settings)
        _check_types(self.measured)
        if not (self.kind_asked is None or isinstance(self.kind_asked, str)) or not 0 <= self.slack < MOST:
            raise ValueError(f"kind_asked {str(self.kind_asked)[:40]!r}, slack {self.slack}")
        if not GENERATION.fullmatch(self.generation):
            raise ValueError(f"generation {self.generation[:40]!r}")
        if set(self.files) != set(FILES):
            raise ValueError(f"files {sorted(map(str, self.files))}")
        for role, fact in self.files.items():
            _check_types(fact)
            if fact.name != FILES[role].format(self.generation):
                raise ValueError(f"file {fact.name[:60]!r}")
        if not (0 <= self.settings.nprobe < MOST and 0 <= self.settings.rerank < MOST):
            raise ValueError(f"nprobe {str(self.settings.nprobe)[:40]}, rerank {str(self.settings.rerank)[:40]}")
        nbytes = {"vectors": 2 * self.rows * self.dim, "row_ids": 8 * self.rows}
        if self.rows < 0 or self.dim <= 0 or any(self.files[role].nbytes != n for role, n in nbytes.items()):
            raise ValueError(f"{self.rows} rows of {self.dim} do not fit its files")


def _check_types(record: Any) -> None:
    for f in fields(record):
        value = getattr(record, f.name)
        kinds: tuple[type, ...] = {"str": (str,), "int": (int,), "float": (int, float)}.get(str(f.type), ())
        if kinds and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise TypeError(f"{f.name} is {str(value)[:40]!r}, not {f.type}")


def read_manifest(directory: Path) -> Manifest | None:
    """The current manifest; None where no index was built. Raises IndexFileError where it is damaged."""
    try:
        return Manifest.from_json(read_small(directory / NAME).decode())
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise IndexFileError(f"{directory / NAME} is damaged ({error}). {WAY_OUT}") from error


WAY_OUT = "Build it again with `indexer build-ann`, or search without it (`indexer search --exact`)."
