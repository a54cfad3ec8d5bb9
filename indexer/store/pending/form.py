"""The file of one pending shard, or of a piece of a large one: its rows as an Arrow stream, then its facts and failures
as JSON, then a checksum.

It is data only, and is checked whole before any of it is used: a file that was cut or altered is refused.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from indexer.errors import PendingDamaged
from indexer.redact import redacted, stored_address
from indexer.store.rows import PLACE_COLUMNS, place_of, vector_block
from indexer.types import EmbeddingBatch, EmbeddingRow, Failure, Shard, ShardResult

FORMAT = 1
_TAIL = struct.Struct("<8sQ32s")  # magic, bytes of the JSON, SHA-256 of all before
_MAGIC = b"PENDING\n"
_BLOCK = 1 << 20
MOST_FACTS = 1 << 30  # bytes of JSON


@dataclass(frozen=True)
class LedgerState:
    """What the ledger said of a shard when its work began: only if it still says so may the work be committed."""

    identity: str
    table_version: int


@dataclass(frozen=True)
class PendingShard:
    """The facts of a pending file."""

    table: str  # the table's identity
    fingerprint: str  # of the encoder
    before: LedgerState | None  # None: the ledger had no row of the shard
    result: ShardResult  # without its batches
    files: Mapping[str, bytes]  # small ones that belong to the run's record, as a slide's tissue, by name

    def parts(self, file: Path, rows: int) -> Iterator[ShardResult]:
        """The shard's results of about `rows` rows each; the failures come with the last."""
        waiting: EmbeddingBatch | None = None
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
            for found in stream:
                batch = _batch(found)
                if waiting is not None and len(waiting.rows) + len(batch.rows) > rows:
                    yield replace(self.result, batches=(waiting,), failures=(), reused=0, more=True)
                    waiting = None
                waiting = batch if waiting is None else _joined(waiting, batch)
        yield replace(self.result, batches=() if waiting is None else (waiting,))


class PendingFile:
    """Writes one shard's results, as they come, to `path`; whole after `finish`."""

    def __init__(self, path: Path, dim: int) -> None:
        self.path = path
        self._schema = _schema(dim)
        self._file: BinaryIO = path.open("w+b")
        self._stream = pa.ipc.new_stream(self._file, self._schema)
        self.failures: list[Failure] = []
        self.rows = self.reused = 0

    def discard(self) -> None:
        """Remove what was written."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def add(self, result: ShardResult) -> None:
        """Add a part of the shard."""
        for batch in result.batches:
            self._stream.write_batch(_recorded(batch, self._schema))
            self.rows += len(batch.rows)
        self.failures += [replace(f, detail=redacted(f.detail)) for f in result.failures]
        self.reused += result.reused

    def finish(
        self,
        last: ShardResult,
        *,
        table: str,
        fingerprint: str,
        before: LedgerState | None,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Write the facts, from the shard's last part."""
        self._stream.close()
        facts = {
            "format": FORMAT,
            "table": table,
            "fingerprint": fingerprint,
            "before": asdict(before) if before else None,
            "shard": {
                "url": stored_address(last.shard.url),
                "name": last.shard.name,
                "identity": last.shard.identity,
                "kind": last.shard.kind,
            },
            "counts": {"samples": last.samples, "reused": self.reused, "adopted": last.adopted},
            "partial": last.partial,
            "failures": [list(asdict(failure).values()) for failure in self.failures],
            "files": {name: base64.b64encode(data).decode() for name, data in (files or {}).items()},
        }
        text = json.dumps(facts).encode()
        self._file.write(text)
        self._file.flush()
        self._file.write(_TAIL.pack(_MAGIC, len(text), _digest(self._file, self._file.tell())))
        self._file.close()


def opened(path: Path, name: str) -> PendingShard:
    """A pending file's facts; it is checked whole. `name` is for messages. Raises PendingDamaged, FileNotFoundError."""
    with path.open("rb") as file:
        try:
            size = file.seek(0, 2)
            file.seek(size - _TAIL.size)
            magic, nbytes, digest = _TAIL.unpack(file.read(_TAIL.size))
            if magic != _MAGIC or nbytes > min(size, MOST_FACTS) or digest != _digest(file, size - _TAIL.size):
                raise ValueError("its checksum is not that of its content")
            file.seek(size - _TAIL.size - nbytes)
            return _pending(json.loads(file.read(nbytes)))
        except (OSError, ValueError, KeyError, TypeError, struct.error, pa.ArrowException) as error:
            raise PendingDamaged(f"{name} is damaged ({error}). Remove it, and index its part again.") from error


def _pending(facts: dict[str, Any]) -> PendingShard:
    if facts["format"] != FORMAT:
        raise ValueError(f"its format is {facts['format']}, and this version reads {FORMAT}")
    result = ShardResult(
        Shard(**facts["shard"]),
        (),
        tuple(Failure(*values) for values in facts["failures"]),
        partial=facts["partial"],
        **facts["counts"],
    )
    before = LedgerState(**facts["before"]) if facts["before"] else None
    files = {name: base64.b64decode(data) for name, data in facts.get("files", {}).items()}
    if any("/" in name or name.startswith(".") for name in files):
        raise ValueError("it names a file that is not beside a run's record")
    return PendingShard(facts["table"], facts["fingerprint"], before, result, files)


def _schema(dim: int) -> pa.Schema:
    text = [
        "key",
        *(name for name in PLACE_COLUMNS if name not in ("offset", "nbytes")),
        "content",
        "metadata",
        "facts",
    ]
    return pa.schema(
        [pa.field(name, pa.string(), False) for name in text]
        + [pa.field(name, pa.int64(), False) for name in ("offset", "nbytes")]
        + [pa.field("norm", pa.float32(), False), pa.field("vector", pa.list_(pa.float16(), dim), False)]
    )


def _recorded(batch: EmbeddingBatch, schema: pa.Schema) -> pa.RecordBatch:
    rows = batch.rows
    columns: dict[str, Any] = {name: [getattr(row.place, name) for row in rows] for name in PLACE_COLUMNS}
    columns["key"], columns["content"] = [row.key for row in rows], [row.content for row in rows]
    columns["metadata"] = [json.dumps(row.metadata) for row in rows]
    columns["facts"] = [json.dumps(dict(row.facts)) for row in rows]
    columns["norm"] = batch.norms
    flat = pa.array(batch.vectors.reshape(-1), pa.float16())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, type=schema.field("vector").type)
    return pa.record_batch([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def _batch(found: pa.RecordBatch) -> EmbeddingBatch:
    names = [name for name in found.schema.names if name != "vector"]
    rows = found.select(names).to_pylist()
    made = tuple(
        EmbeddingRow(row["key"], place_of(row), row["content"], json.loads(row["metadata"]), json.loads(row["facts"]))
        for row in rows
    )
    norms = found.column("norm").to_numpy().astype(np.float32)
    return EmbeddingBatch(made, vector_block(found).copy(), norms)


def _joined(first: EmbeddingBatch, second: EmbeddingBatch) -> EmbeddingBatch:
    vectors = np.concatenate([first.vectors, second.vectors])
    return EmbeddingBatch((*first.rows, *second.rows), vectors, np.concatenate([first.norms, second.norms]))


def _digest(file: BinaryIO, nbytes: int) -> bytes:
    file.seek(0)
    digest, left = hashlib.sha256(), nbytes
    while left and (block := file.read(min(_BLOCK, left))):
        digest.update(block)
        left -= len(block)
    file.seek(0, 2)
    return digest.digest()


def pending_name(shard: str, identity: str) -> str:
    """The name of a shard's file: another content of the same shard has another one."""
    return hashlib.sha256(f"{shard}\0{identity}".encode("utf-8", "surrogateescape")).hexdigest()[:40]
