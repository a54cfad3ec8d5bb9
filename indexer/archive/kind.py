"""What a kind of archive knows: its addresses, their shards, the samples of a shard, an image read back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from indexer.types import Failure, Place, Sample, Shard


class ShardKind(Protocol):
    """One way in which images lie together."""

    name: str  # Shard.kind
    suffixes: tuple[str, ...]  # of such files inside a folder, lower case; empty where they are no files

    def claims(self, address: str) -> bool:
        """Whether an address, of one file, folder or URL, is of this kind."""
        ...

    def shards(self, address: str, *, hash_content: bool, notes: list[str]) -> Iterator[Shard]:
        """The shards of an address that it claims; `notes` gets what is passed over and why. Raises InputError."""
        ...

    def samples(self, shard: Shard) -> Iterator[Sample | Failure]:
        """Whole samples in the shard's own order, and a Failure for each that has no usable image or metadata.

        Where the archive breaks off, the sample begun is not given, and CutShard is raised after those before it.
        Raises NotATar where there is no archive at all, ReadError where it cannot be opened.
        """
        ...

    def read_back(self, url: str, place: Place, roots: Sequence[str] | None) -> bytes:
        """An image's bytes from where they were when it was embedded, and from nowhere but below `roots`.

        Raises OSError, ReadError, or one of DAMAGE.
        """
        ...
