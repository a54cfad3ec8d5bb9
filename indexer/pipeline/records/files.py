"""Where the records of a table's runs are kept: a folder beside a local table, objects beside one in a bucket."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from indexer.addresses import is_remote, join
from indexer.disk import make_directory, replace_file
from indexer.remote import objects
from indexer.remote.objects import Bucket
from indexer.store.table import EmbeddingStore

MANIFEST = "manifest.json"


class RunFiles(Protocol):
    """The records by name, which sorts by time. Every method raises OSError."""

    where: str

    def names(self) -> list[str]:
        """Oldest first."""
        ...

    def new(self, name: str) -> str:
        """A name that no record has: `name`, or one with a number behind it."""
        ...

    def read(self, name: str) -> dict[str, Any] | None:
        """The manifest of a record; None where it is not one."""
        ...

    def write(self, name: str, file: str, data: bytes) -> None: ...


def run_files(store: EmbeddingStore) -> RunFiles:
    return _at(join(store.uri, f"{store.name}.runs"))


def _at(address: str) -> RunFiles:
    return InBucket(address) if is_remote(address) else InFolder(Path(address))


@dataclass(frozen=True)
class Beside:
    """Writes small files beside one record. Picklable."""

    where: str  # of RunFiles
    name: str  # of the record

    def __call__(self, file: str, data: bytes) -> None:
        """Raises OSError."""
        _at(self.where).write(self.name, file, data)


class InFolder:
    """Implements RunFiles in a folder of folders."""

    def __init__(self, folder: Path) -> None:
        self.where, self._folder = str(folder), folder

    def names(self) -> list[str]:
        return sorted(path.parent.name for path in self._folder.glob(f"*/{MANIFEST}"))

    def new(self, name: str) -> str:
        number, free = 1, name
        while (self._folder / free).exists():
            number += 1
            free = f"{name}-{number}"
        make_directory(self._folder / free)
        return free

    def read(self, name: str) -> dict[str, Any] | None:
        try:
            return _record((self._folder / name / MANIFEST).read_bytes())
        except OSError:
            return None

    def write(self, name: str, file: str, data: bytes) -> None:
        replace_file(self._folder / name / file, data)


class InBucket:
    """Implements RunFiles below a prefix."""

    def __init__(self, address: str) -> None:
        self.where, self._bucket = address, Bucket(address)

    def names(self) -> list[str]:
        found = (listed.path for listed in objects.listed(f"{self.where}/"))
        return sorted(path.rpartition("/")[0] for path in found if path.endswith(f"/{MANIFEST}"))

    def new(self, name: str) -> str:
        taken, number, free = set(self.names()), 1, name
        while free in taken:
            number += 1
            free = f"{name}-{number}"
        return free

    def read(self, name: str) -> dict[str, Any] | None:
        found = self._bucket.get(f"{name}/{MANIFEST}")
        return _record(found.data) if found else None

    def write(self, name: str, file: str, data: bytes) -> None:
        self._bucket.put(f"{name}/{file}", data)


def _record(data: bytes) -> dict[str, Any] | None:
    try:
        facts = json.loads(data)
    except ValueError:
        return None
    return facts if isinstance(facts, dict) else None
