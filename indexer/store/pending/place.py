"""Where pending shards lie: the folder `<table>.pending` beside a local table, or the prefix beside one in a bucket.

Beside a large shard's file lie, until it is there, the pieces of it that are done: `<name>.<number>`.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from indexer.addresses import join
from indexer.disk import fsync, make_directory
from indexer.remote import objects
from indexer.remote.objects import Bucket
from indexer.store.lance_errors import writing
from indexer.store.table import EmbeddingStore

_SUFFIX = ".shard"
_PIECE = ".piece"
_LEFT_SECONDS = 86_400.0  # an unfinished file that old was left by a task that was killed


class PendingPlace(Protocol):
    """Pending files by name. A file appears whole or not at all; a second one of a name replaces the first."""

    where: str

    def names(self) -> list[str]: ...

    def pieces(self) -> list[str]:
        """Names of pieces, in order."""
        ...

    def begin(self) -> Path:
        """A path to write a file to. Raises StoreError."""
        ...

    def publish(self, path: Path, name: str) -> None:
        """Make a file that was begun and written appear under a name, on the disk. Raises StoreError."""
        ...

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """The file on this machine; opening it, or the context, raises FileNotFoundError where it is gone."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...

    def sweep(self) -> None:
        """Remove what tasks that were killed left unfinished."""
        ...


def pending_place(store: EmbeddingStore) -> PendingPlace:
    address = join(store.uri, f"{store.name}.pending")
    return _Folder(Path(address)) if store.path is not None else _Prefix(address)


class _Folder:
    """Implements PendingPlace."""

    def __init__(self, folder: Path) -> None:
        self.where, self._folder = str(folder), folder

    def names(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob(f"[!.]*{_SUFFIX}"))

    def pieces(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob(f"[!.]*{_PIECE}"))

    def begin(self) -> Path:
        with writing(self.where):
            make_directory(self._folder)
        return self._folder / f".{secrets.token_hex(8)}"

    def publish(self, path: Path, name: str) -> None:
        with writing(self.where):
            fsync(path)
            path.replace(self._path(name))
            fsync(self._folder)

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        yield self._path(name)

    def remove(self, name: str) -> None:
        with writing(self.where):
            self._path(name).unlink(missing_ok=True)

    def sweep(self) -> None:
        for path in self._folder.glob(".*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFT_SECONDS:
                    path.unlink()
        with suppress(OSError):  # it is not empty, or not there
            self._folder.rmdir()

    def _path(self, name: str) -> Path:
        return self._folder / _file(name)


class _Prefix:
    """Implements PendingPlace: an object appears once all of it is there."""

    def __init__(self, address: str) -> None:
        self.where, self._bucket = address, Bucket(address)

    def names(self) -> list[str]:
        return self._ending(_SUFFIX)

    def pieces(self) -> list[str]:
        return self._ending(_PIECE)

    def _ending(self, suffix: str) -> list[str]:
        with writing(self.where):
            found = [listed.path for listed in objects.listed(f"{self.where}/")]
        return sorted(path.removesuffix(suffix) for path in found if path.endswith(suffix))

    def begin(self) -> Path:
        return _temporary()

    def publish(self, path: Path, name: str) -> None:
        with writing(self.where):
            objects.write_file(join(self.where, _file(name)), path)
        path.unlink()

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        path = _temporary()
        try:
            with path.open("wb") as copy:
                stream = objects.stream(join(self.where, _file(name)))
                while block := stream.read(1 << 20):
                    copy.write(block)
            yield path
        finally:
            path.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        with writing(self.where), suppress(FileNotFoundError):  # which some stores say
            self._bucket.delete(_file(name))

    def sweep(self) -> None:
        """An object has no unfinished form."""


def _file(name: str) -> str:
    """A piece's name has its number behind the shard's."""
    return name + (_PIECE if "." in name else _SUFFIX)


def _temporary() -> Path:
    handle, name = tempfile.mkstemp(prefix="indexer-pending-")
    os.close(handle)
    return Path(name)
