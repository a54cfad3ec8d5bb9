"""The kinds of archive that are read. A new one: a module with a class of `kind.ShardKind`, and a place in KINDS."""

from __future__ import annotations

from indexer.archive.files import Files
from indexer.archive.kind import ShardKind
from indexer.archive.tar import Tar

TAR = Tar()
KINDS: tuple[ShardKind, ...] = (Files(inside=(TAR,)), TAR)  # the first to claim an address has it; Tar claims the rest


def kind_of(address: str) -> ShardKind:
    """The kind that claims an address."""
    return next(kind for kind in KINDS if kind.claims(address))
