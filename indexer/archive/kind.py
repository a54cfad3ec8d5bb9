"""The protocol of archive kinds: which addresses they handle, their shards and samples, and reading an image back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from indexer.archive.tables.named import TableOptions
from indexer.types import Failure, Place, Sample, Shard


@dataclass(frozen=True)
class Sources:
    """The shards in the order in which they are read, and notes on what was left out and why."""

    shards: tuple[Shard, ...]
    notes: tuple[str, ...]


class ShardKind(Protocol):
    """One kind of archive, such as tar files or folders of images."""

    name: str  # Shard.kind
    suffixes: tuple[str, ...]  # of such archives inside a folder, lower case; empty where they are not files

    def claims(self, address: str) -> bool:
        """Whether the address of a file, folder or URL is of this kind."""
        ...

    def left_out(self, path: Path, tables: TableOptions) -> str:
        """Why a file with one of `suffixes`, found in a folder, is not read as a shard; "" where it is."""
        ...

    def shards(self, address: str, *, hash_content: bool, tables: TableOptions, notes: list[str]) -> Iterator[Shard]:
        """The shards of a claimed address; `notes` gets what is left out and why. Raises InputError."""
        ...

    def samples(self, shard: Shard) -> Iterator[Sample | Failure]:
        """Whole samples in the shard's own order, and a Failure for each that has no usable image or metadata.

        Those of `shard.stored` may come without their bytes.

        In a truncated archive the incomplete last sample is not yielded, and CutShard is raised after the others.
        Raises NotAnArchive where there is no archive at all, ReadError where it cannot be opened.
        """
        ...

    def read_back(self, url: str, place: Place, roots: Sequence[str] | None) -> bytes:
        """An image's bytes from the place where they were when it was embedded, which must lie below `roots`.

        Raises OSError, ReadError, or one of DAMAGE.
        """
        ...
