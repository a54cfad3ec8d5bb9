"""An archive that was moved or copied: its shards get their new addresses, and no image is embedded again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.addresses import is_remote
from indexer.archive.reader import read_place
from indexer.archive.roots import named, remember
from indexer.archive.shards import find_again
from indexer.errors import IndexerError, InputError, StoreError, sentence
from indexer.redact import can_be_reopened, stored_address
from indexer.store.rows import PLACE_COLUMNS, place_of
from indexer.store.table import EmbeddingStore, identity_of
from indexer.store.writer import StoreWriter
from indexer.store.writing.gone import KEPT_IDENTITY
from indexer.store.writing.moved import NewAddress, below
from indexer.store.writing.side_tables import LedgerEntry
from indexer.types import Place, Shard

SAMPLE = 100  # images read back at the new place before anything is written
LEAST_SAMPLE = 20
NAMED = 3  # of what differs


@dataclass(frozen=True)
class RelocateReport:
    """What a relocation did."""

    table: str
    shards: int  # that got a new address
    rows: int  # that got a new address
    images_checked: int  # read back at the new place, with the sha256 of the table
    already_there: int  # shards that lay below the new place before
    changed: tuple[str, ...]  # shards whose files are no longer those indexed: `index --changed replace` takes them


def relocate(store: EmbeddingStore, old: str, new: str, *, sample: int = SAMPLE, seed: int = 0) -> RelocateReport:
    """Rewrite addresses at or below `old` to the same below `new`: all, or none where a sampled image differs there.

    `sample` images (all, where there are fewer) are drawn with `seed` and read back; each must have the sha256 that the
    table holds. Raises InputError where no shard lies below `old`, StoreError where the new place does not hold the
    same archive.
    """
    if sample < LEAST_SAMPLE:
        raise InputError(f"--sample {sample}: at least {LEAST_SAMPLE} images are read back.")
    target = new.rstrip("/") if is_remote(new) else str(Path(new).resolve())
    if not is_remote(target) and not Path(target).exists():
        raise InputError(f"{new} does not exist. Name the place where the archive is now.")
    with StoreWriter(store) as writer:
        entries = dict(writer.entries)
        there = sum(below(name, target) for name in entries)
        source = _prefix(old, entries)
        if source is None:
            if there:
                return RelocateReport(store.name, 0, 0, 0, there, ())
            raise InputError(f"no shard of table {store.name} lies at or below {old}; {_first(entries)}.")
        if source == target:
            raise InputError(f"{old} and {new} are the same place.")
        if below(target, source):
            raise InputError(
                f"{new} lies inside {old}: which shards have moved cannot be told. Relocate them one by one."
            )
        moves, changed = _moves(entries, source, target)
        checked = _check(store, moves, _root(target), sample, seed)
        rows = writer.move(moves)
        remember(identity_of(store), {address.url for address in moves.values()})
    return RelocateReport(store.name, len(moves), rows, checked, there, changed)


def _prefix(old: str, entries: Mapping[str, LedgerEntry]) -> str | None:
    """`old` as the table's addresses have it: links resolved, or as it is where the link is gone; None where no shard
    lies below either.
    """
    stored = stored_address(old)
    spelt = [stored.rstrip("/")] if is_remote(old) else [str(Path(old).resolve()), str(Path(old).absolute())]
    return next((text for text in spelt if any(below(name, text) for name in entries)), None)


def _first(entries: Mapping[str, LedgerEntry]) -> str:
    return f"its first is {next(iter(sorted(entries)))}" if entries else "it has none"


def _moves(
    entries: Mapping[str, LedgerEntry], source: str, target: str
) -> tuple[dict[str, NewAddress], tuple[str, ...]]:
    """The new address of each shard below `source`, and the new names of those that are not what was indexed.

    Raises StoreError where some are not at the new place.
    """
    urls = {name: _moved(entries[name].url, source, target) for name in entries if below(name, source)}
    names = {name: _moved(name, source, target) for name in urls}
    found = _identities(urls, entries, names)
    aside = {name for name in names if entries[name].identity == KEPT_IDENTITY}  # their files were gone before
    missing = [names[name] for name in names if names[name] not in found and name not in aside]
    if missing:
        raise StoreError(
            f"{len(missing)} of {len(names)} shards are not at the new place, first {', '.join(missing[:NAMED])}. "
            "Name the place that holds the whole archive, or relocate its parts one by one."
        )
    moves, changed = {}, []
    for name in names:
        identity, same = found.get(names[name], (KEPT_IDENTITY, True))
        moves[name] = NewAddress(names[name], urls[name], identity)
        if not same:
            changed.append(names[name])
    return moves, tuple(changed)


def _moved(address: str, source: str, target: str) -> str:
    return target + address[len(source) :] if below(address, source) else address


def _identities(
    urls: Mapping[str, str], entries: Mapping[str, LedgerEntry], names: Mapping[str, str]
) -> dict[str, tuple[str, bool]]:
    """New name → the identity to store, and whether the shard can be what was indexed.

    A shard indexed with --hash-content keeps its hash where the bytes are the same. One known by size and time gets
    the new time where the size (of a folder's group: the number of files) is the same. Otherwise the old identity
    stays, so that the next run says that the shard changed.
    """
    out: dict[str, tuple[str, bool]] = {}
    olds = {new: entries[old] for old, new in names.items()}
    for hash_content in (False, True):
        for shard in _found({names[name]: url for name, url in urls.items()}, olds, hash_content=hash_content):
            old = olds.get(shard.name)
            if old is None:
                continue
            if shard.identity == old.identity:
                out[shard.name] = shard.identity, True
            elif not hash_content:
                same = _same_size(shard, old)
                out[shard.name] = (shard.identity if same else old.identity), same
        if all(out.get(name, ("", False))[0] == entry.identity for name, entry in olds.items()):
            break  # times were kept: no byte need be read
        if not any(_hashed(entry, name, out) for name, entry in olds.items()):
            break
    return out


def _hashed(old: LedgerEntry, name: str, found: Mapping[str, tuple[str, bool]]) -> bool:
    """Whether the shard may be known by a hash of its bytes: a group of a folder does not say."""
    return old.identity.startswith("sha256:") or ("#" in name and found.get(name, ("", False))[0] != old.identity)


def _found(urls: Mapping[str, str], olds: Mapping[str, LedgerEntry], *, hash_content: bool) -> Iterator[Shard]:
    """The shards of these names and addresses that are there."""
    by_url: dict[str, dict[str, str]] = {}
    for name, url in urls.items():
        by_url.setdefault(url, {})[name] = url
    for url, named_so in sorted(by_url.items()):
        if not (can_be_reopened(url) if is_remote(url) else Path(url).exists()):
            continue
        try:
            identities = {name: olds[name].identity for name in named_so}
            yield from find_again(named_so, identities, hash_content=hash_content)
        except InputError:  # an empty folder, or one that holds something else: its shards are missing
            if is_remote(url):
                raise


def _same_size(shard: Shard, old: LedgerEntry) -> bool:
    """Whether a shard known by size and time, or a group of files, has the size it had."""
    if shard.kind == "files":
        return sum(1 for _ in shard.files) == old.samples
    return shard.identity.partition("-")[0] == old.identity.partition("-")[0]


def _root(target: str) -> str:
    """The place below which images are read back: a table that moved alone lists images beside it."""
    return target if is_remote(target) or Path(target).is_dir() else str(Path(target).parent)


def _check(store: EmbeddingStore, moves: Mapping[str, NewAddress], root: str, sample: int, seed: int) -> int:
    """Read images back at the new place; how many. Raises StoreError naming the first that differ."""
    ids = _row_ids(store, [name for name, new in moves.items() if new.identity != KEPT_IDENTITY])
    drawn = np.sort(np.random.default_rng(seed).choice(ids, min(sample, len(ids)), replace=False))
    _, rows = store.take(drawn, [*PLACE_COLUMNS, "content", "key"])
    wrong: list[str] = []
    for row in rows.to_pylist():
        new = moves[row["shard"]]
        place: Place = replace(place_of(row), shard=new.name)
        try:
            read_place(new.url, place, row["content"], roots=named([root]))
        except IndexerError as error:
            wrong.append(f"{row['key']} ({sentence(error)})")
    if wrong:
        raise StoreError(
            f"{len(wrong)} of {rows.num_rows} sampled images are not at the new place as they were indexed, first "
            f"{'; '.join(wrong[:NAMED])}. Nothing was changed: name the place that holds the same archive."
        )
    return len(drawn)


def _row_ids(store: EmbeddingStore, shards: Sequence[str]) -> np.ndarray:
    """Row ids of these shards' rows, 8 bytes each."""
    names, parts = pa.array(shards, pa.string()), [np.empty(0, np.int64)]
    for batch in store.scan(["shard"], batch_rows=1 << 16):
        mask = pc.is_in(batch.column("shard"), value_set=names)
        parts.append(batch.column("_rowid").filter(mask).to_numpy().astype(np.int64))
    return np.concatenate(parts)
