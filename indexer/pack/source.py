"""The protocol of `pack`'s sources, and the record of a scanned file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from indexer.archive.walk import ListedFile


@dataclass(frozen=True)
class Scanned:
    """A file and the facts from its header."""

    found: ListedFile
    kind: str = ""  # of `indexer.pixels.sniff`; "" where only the name is that of an image
    suffix: str = ""
    left_out: str = ""
    instance: str = ""  # SOPInstanceUID
    burned_in: bool = False
    series: str = ""  # SeriesInstanceUID of a file with one frame
    labels: bool = False  # JSON beside an image that holds a label
    readable: bool = True  # False: DICOM by bytes or name, without a readable header


class Source(Protocol):
    """A source of files. Picklable: each worker process reads through its own copy."""

    def list(self) -> Iterator[ListedFile]: ...

    def scan(self, found: ListedFile) -> Scanned: ...

    def read(self, path: str) -> bytes: ...

    def sidecar(self, path: str) -> bytes:
        """The JSON beside a file, empty where there is none."""
        ...
