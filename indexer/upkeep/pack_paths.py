"""Names the files behind the hashed keys of packed shards, where the list that `pack` wrote is at hand."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from indexer.addresses import is_remote
from indexer.archive.roots import is_below, named, remembered
from indexer.archive.walk import PACK_LIST, PACK_STATE
from indexer.store.table import EmbeddingStore, identity_of

MOST_KEYS = 200_000  # for which paths are looked up; of a table with more failures only the first are named


def paths_of_failures(store: EmbeddingStore) -> dict[tuple[str, str], str]:
    """(shard, key) → the path below the folder that was packed, of failed images whose shard lies beside its list.

    Lists are read only below the folders from which this user indexed the table.
    """
    roots = named(remembered(identity_of(store)))

    @lru_cache(1024)
    def is_read(file: Path) -> bool:
        return is_below(str(file), roots) and file.is_file()

    wanted: defaultdict[Path, dict[tuple[str, str], str]] = defaultdict(dict)
    count = 0
    for batch in store.scan_failures(["shard", "key"]):
        for shard, key in zip(batch.column("shard").to_pylist(), batch.column("key").to_pylist(), strict=True):
            if not key or is_remote(shard):
                continue
            file = Path(shard).parent / PACK_STATE / PACK_LIST
            if count < MOST_KEYS and is_read(file):
                wanted[file][Path(shard).name, key] = shard
                count += 1
    found: dict[tuple[str, str], str] = {}
    for file, shards in wanted.items():
        found |= {(shards[each], each[1]): path for each, path in _listed(file, shards)}
    return found


def _listed(file: Path, wanted: Mapping[tuple[str, str], str]) -> Iterable[tuple[tuple[str, str], str]]:
    """(shard's name, key) and path of each line that is asked for; nothing of a file that is no such list."""
    try:
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
            for row in csv.DictReader(lines):
                each = (row.get("shard") or "", row.get("key") or "")
                if each in wanted and row.get("path"):
                    yield each, row["path"].encode("utf-8", "replace").decode()
    except (OSError, csv.Error):
        return
