"""What `pack` reads from: the protocol of a source, and a file after a look at its header."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from indexer.archive.walk import ListedFile


@dataclass(frozen=True)
class Scanned:
    """A file after a look at its header."""

    found: ListedFile
    kind: str = ""  # as `indexer.pixels.sniff` names it; "" where the bytes are no image and only the name says so
    suffix: str = ""
    left_out: str = ""
    instance: str = ""  # SOPInstanceUID
    burned_in: bool = False


class Source(Protocol):
    """What `pack` reads from. Picklable: each worker process reads through its own copy."""

    def list(self) -> Iterator[ListedFile]: ...

    def scan(self, found: ListedFile) -> Scanned: ...

    def read(self, path: str) -> bytes: ...

    def sidecar(self, path: str) -> bytes:
        """The JSON that lies beside a file, empty where there is none."""
        ...
