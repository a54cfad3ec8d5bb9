"""Whether the images of a table can be read back from where they were indexed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexer.addresses import is_remote
from indexer.archive.reader import read_place
from indexer.archive.roots import is_below, named, remembered
from indexer.errors import IndexerError, StoreError, sentence
from indexer.redact import can_be_reopened
from indexer.store.rows import PLACE_COLUMNS, place_of
from indexer.store.table import EmbeddingStore, identity_of
from indexer.store.writing.gone import KEPT_IDENTITY

SAMPLE = 32
NAMED = 3
WAY_OUT = "if the archive moved, run `indexer relocate DB OLD NEW`"


@dataclass(frozen=True)
class SourceHealth:
    """Sampled images and shards, against the disk and the servers as they are now."""

    checked: int  # images read back, of those whose shards may be opened
    unreadable: int  # of these: gone, or with other bytes
    shards_missing: int  # local shards and folders that are not there
    shards_not_checked: int  # below no folder that this user indexed from, or their addresses were not stored


def source_health(view: EmbeddingStore, seed: int, roots: Sequence[str] = ()) -> tuple[SourceHealth, list[str]]:
    """What a seeded sample of images says, and in words what is wrong. Nothing outside the user's roots is opened."""
    try:
        ledger = view.ledger().select(["shard", "url", "identity"]).to_pylist()
    except StoreError:  # which the report says by itself
        return SourceHealth(0, 0, 0, 0), []
    allowed = (*remembered(identity_of(view)), *named(roots))
    urls = {row["shard"]: row["url"] for row in ledger if row["identity"] != KEPT_IDENTITY}
    open_to_us = {name: url for name, url in urls.items() if can_be_reopened(url) and is_below(url, allowed)}
    there = {url: is_remote(url) or Path(url).exists() for url in set(open_to_us.values())}
    missing = sorted(name for name, url in open_to_us.items() if not there[url])
    checked, wrong = _read_back(view, open_to_us, seed, allowed)
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(urls)} shards are missing, first {missing[0]}: {WAY_OUT}.")
    if wrong:
        problems.append(
            f"{len(wrong)} of {checked} sampled images cannot be read back, first {'; '.join(wrong[:NAMED])}: "
            f"{WAY_OUT}."
        )
    return SourceHealth(checked, len(wrong), len(missing), len(urls) - len(open_to_us)), problems


def _read_back(view: EmbeddingStore, urls: dict[str, str], seed: int, roots: Sequence[str]) -> tuple[int, list[str]]:
    """How many images were tried, and of those that cannot be read the key and the reason."""
    n = view.count()
    wanted = np.sort(np.random.default_rng(seed).choice(n, min(SAMPLE, n), replace=False)) if n else np.empty(0, int)
    ids, seen = [np.empty(0, np.int64)], 0
    for batch in view.scan([], batch_rows=1 << 16):
        spots = wanted[(wanted >= seen) & (wanted < seen + batch.num_rows)] - seen
        ids.append(batch.column("_rowid").to_numpy().astype(np.int64)[spots])
        seen += batch.num_rows
    _, rows = view.take(np.concatenate(ids), ["key", "content", *PLACE_COLUMNS])
    checked, wrong = 0, []
    for row in rows.to_pylist():
        url = urls.get(row["shard"])
        if url is None:
            continue
        checked += 1
        try:
            read_place(url, place_of(row), row["content"], roots=roots)
        except IndexerError as error:
            wrong.append(f"{row['key']} ({sentence(error)})")
    return checked, wrong
