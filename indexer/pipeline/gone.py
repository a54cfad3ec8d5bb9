"""Files that a folder had when it was indexed and has no more: their rows are counted, and kept or dropped."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from indexer.addresses import is_remote
from indexer.archive.files import Files, named_file
from indexer.pipeline.in_flight import Planned
from indexer.pipeline.report import plural
from indexer.store.writer import StoreWriter
from indexer.store.writing.moved import below
from indexer.store.writing.side_tables import LedgerEntry
from indexer.types import Int64, Shard

NAMED = 3  # of the rows whose files are gone
ASIDE = "gone"  # behind a folder's name and '#': the shard of its rows that were kept


@dataclass
class Gone:
    """Rows whose files are gone from the folders that a run was given."""

    rows: int = 0
    first: list[str] = field(default_factory=list)  # their keys
    dropped: bool = False

    def add(self, keys: Sequence[str]) -> None:
        self.rows += len(keys)
        self.first += list(keys[: NAMED - len(self.first)]) if len(self.first) < NAMED else []

    def words(self, *, named: bool = True) -> list[str]:
        """For the report; with the first of the rows where `named`."""
        if not self.rows:
            return []
        what = "were dropped" if self.dropped else "are kept: --gone drop drops them"
        more = " and more" if self.rows > len(self.first) else ""
        first = f", first {', '.join(self.first)}{more}" if named else ""
        return [
            f"the files of {self.rows} {plural('row', self.rows)} are gone from the folder{first}; the "
            f"rows {what}. If the files moved, see `indexer relocate`"
        ]


def settle_gone(
    writer: StoreWriter, shards: Sequence[Shard], plan: Sequence[Planned], folders: Sequence[str], *, drop: bool
) -> Gone:
    """Before a run: keep or drop the rows whose files are gone from `folders` and from the folders among `shards`."""
    gone = Gone(dropped=drop)
    named = {shard.name for shard in shards}
    lost = _lost_archives(writer.entries, named, folders)
    for base in sorted({shard.url for shard in shards if shard.kind == Files.name}):
        _settle_folder(writer, base, named, plan, gone)
    for name in lost:
        gone.rows += writer.entries[name].embedded
        gone.first = [*gone.first, f"those of {name}"][:NAMED]
    if drop and lost:
        writer.drop_shards(lost)
    return gone


def _lost_archives(entries: Mapping[str, LedgerEntry], named: set[str], folders: Sequence[str]) -> list[str]:
    """Shards that are files of their own, lay below one of these folders, and are there no more."""
    return [
        name
        for name, entry in entries.items()
        if name not in named
        and not is_remote(entry.url)
        and any(below(entry.url, folder) and entry.url != folder for folder in folders)
        and not Path(entry.url).exists()
    ]


def _settle_folder(writer: StoreWriter, base: str, named: set[str], plan: Sequence[Planned], gone: Gone) -> None:
    aside = f"{base}#{ASIDE}"
    empty = [n for n in writer.entries if n.startswith(f"{base}#") and n not in named and n != aside]
    changed = [p.shard.name for p in plan if p.replaces and p.shard.url == base]
    keys: list[str] = []  # whose rows are not set aside yet
    returned: list[Int64] = [np.empty(0, np.int64)]  # rows set aside whose file is back, with other bytes
    dropped: list[Int64] = [np.empty(0, np.int64)]
    for batch in writer.rows_of([*empty, *changed, *([aside] if aside in writer.entries else [])]):
        ids = batch.column("_rowid").to_numpy().astype(np.int64)
        columns = (batch.column(name).to_pylist() for name in ("key", "shard", "member", "content"))
        for row_id, (key, shard, member, content) in zip(ids, zip(*columns, strict=True), strict=True):
            path = named_file(Path(base), member)
            if not path.exists():
                gone.add([key])
                dropped.append(np.array([row_id]))
                if shard != aside:
                    keys.append(key)
            elif shard == aside and _differs(path, content):
                returned.append(np.array([row_id]))
    writer.drop_rows(np.concatenate([*returned, *(dropped if gone.dropped else [])]))
    if keys and not gone.dropped:
        writer.set_aside(keys, aside, base)
    writer.drop_shards(empty)


def _differs(path: Path, content: str) -> bool:
    """Whether the file has another sha256; not where it cannot be read, which is no reason to delete a row."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() != content
    except OSError:
        return False
