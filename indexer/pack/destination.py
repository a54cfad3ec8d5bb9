"""Where `pack` writes: a folder, or a prefix of an object store. The state of a run lies in PACK_STATE there.

A shard appears under its name once it is complete, and then its record. One that has no record is written again.
"""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from indexer.addresses import join
from indexer.archive.walk import PACK_LIST, PACK_STATE
from indexer.errors import InputError, StoreError, StoreLocked, sentence
from indexer.pack.headers.secret import private_file
from indexer.pack.tarball import write_shard
from indexer.redact import stored_address
from indexer.remote import objects
from indexer.remote.objects import Bucket
from indexer.store.holding.lease import Lease
from indexer.store.holding.places import ObjectPlace

Samples = Iterable[tuple[str, str, bytes, dict[str, Any]]]  # as `tarball.write_shard` takes them


class Destination(Protocol):
    """A place for shards. Picklable; methods raise OSError, `alone` raises InputError."""

    @property
    def name(self) -> str:
        """The folder's path or the address, without secrets."""
        ...

    @property
    def folder(self) -> Path | None:
        """On this machine."""
        ...

    def alone(self) -> AbstractContextManager[None]:
        """Keeps other runs out, since two would write the same names."""
        ...

    def shards(self) -> dict[str, int]:
        """The names of all shards, and their sizes in bytes."""
        ...

    def record(self, shard: str) -> bytes | None: ...

    def write_shard(self, shard: str, samples: Samples) -> int:
        """Returns its size in bytes."""
        ...

    def write_record(self, shard: str, text: str) -> None: ...

    def listing(self) -> AbstractContextManager[TextIO]:
        """A new list of all files (PACK_LIST), which appears at the end of the block."""
        ...

    @property
    def list_name(self) -> str: ...

    def forget(self, shard: str) -> None:
        """Remove a shard's record."""
        ...

    def remove(self, shard: str) -> None:
        """Remove a shard and its record."""
        ...

    def sweep(self) -> None:
        """Remove what a run that was killed left unfinished."""
        ...


@dataclass(frozen=True)
class Folder:
    """Implements Destination. Records and list, which hold the archive's paths, are readable by their owner only."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def folder(self) -> Path | None:
        return self.path

    @property
    def _state(self) -> Path:
        return self.path / PACK_STATE

    @contextmanager
    def alone(self) -> Iterator[None]:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._state.mkdir(mode=0o700, exist_ok=True)
            self._state.chmod(0o700)  # also where it existed
            opened = private_file(self._state / "lock")
        except OSError as error:
            raise InputError(f"{self.path} cannot be written to: {error.strerror}. Name another folder.") from error
        with opened as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"another run packs into {self.path}. Wait for it, or name another folder.") from error
            yield

    def shards(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in sorted(self.path.glob("*.tar"))}

    def record(self, shard: str) -> bytes | None:
        try:
            return self._record(shard).read_bytes()
        except FileNotFoundError:
            return None

    def write_shard(self, shard: str, samples: Samples) -> int:
        return write_shard(self.path / shard, samples)

    def write_record(self, shard: str, text: str) -> None:
        record = self._record(shard)
        partial = record.with_suffix(".partial")
        with private_file(partial) as file:
            file.write(text)
        partial.replace(record)

    @contextmanager
    def listing(self) -> Iterator[TextIO]:
        target = self._state / PACK_LIST
        partial = target.with_suffix(".partial")
        with private_file(partial) as file:
            yield file
        partial.replace(target)

    @property
    def list_name(self) -> str:
        return str(self._state / PACK_LIST)

    def forget(self, shard: str) -> None:
        self._record(shard).unlink(missing_ok=True)

    def remove(self, shard: str) -> None:
        (self.path / shard).unlink()
        self.forget(shard)

    def sweep(self) -> None:
        for cut in self.path.glob("*.tar.partial"):
            cut.unlink()

    def _record(self, shard: str) -> Path:
        return self._state / f"{shard}.json"


@dataclass(frozen=True)
class Prefix:
    """Implements Destination. A shard is made in the folder for temporary files, and uploaded in parts."""

    address: str  # without "/" at its end

    @property
    def name(self) -> str:
        return stored_address(self.address)

    @property
    def folder(self) -> Path | None:
        return None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """By a lease, whatever the machine of the other run."""
        try:
            place = ObjectPlace(join(self.address, PACK_STATE), "pack")
            with Lease(place, what=self.name):
                yield
        except OSError as error:
            raise InputError(f"{self.name} cannot be written to: {error}. Check it and its credentials.") from error
        except StoreLocked as error:
            raise InputError(sentence(error)) from error
        except StoreError as error:
            raise InputError(f"{sentence(error)}. Check the address and its credentials.") from error

    def shards(self) -> dict[str, int]:
        found = {listed.path: listed.facts.nbytes or 0 for listed in objects.listed(f"{self.address}/")}
        return {name: nbytes for name, nbytes in found.items() if name.endswith(".tar") and "/" not in name}

    def record(self, shard: str) -> bytes | None:
        held = self._state.get(f"{shard}.json")
        return held.data if held else None

    def write_shard(self, shard: str, samples: Samples) -> int:
        with tempfile.TemporaryDirectory(prefix="indexer-pack-") as folder:
            path = Path(folder) / shard
            nbytes = write_shard(path, samples)
            objects.write_file(join(self.address, shard), path)
        return nbytes

    def write_record(self, shard: str, text: str) -> None:
        self._state.put(f"{shard}.json", text.encode("utf-8", "surrogateescape"))

    @contextmanager
    def listing(self) -> Iterator[TextIO]:
        with tempfile.TemporaryDirectory(prefix="indexer-pack-") as folder:
            path = Path(folder) / PACK_LIST
            with private_file(path) as file:
                yield file
            objects.write_file(join(join(self.address, PACK_STATE), PACK_LIST), path)

    @property
    def list_name(self) -> str:
        return join(join(self.name, PACK_STATE), PACK_LIST)

    def forget(self, shard: str) -> None:
        if self.record(shard) is not None:  # some stores refuse to delete what is not there
            self._state.delete(f"{shard}.json")

    def remove(self, shard: str) -> None:
        Bucket(self.address).delete(shard)
        self.forget(shard)

    def sweep(self) -> None:
        """An object has no unfinished form."""

    @property
    def _state(self) -> Bucket:
        return Bucket(join(self.address, PACK_STATE))


def destination_of(name: Path | str) -> Destination:
    """Raises InputError for an address that nothing is written to."""
    address = str(name)
    if isinstance(name, str) and objects.is_object(address):
        if not address.partition("://")[2].strip("/"):
            raise InputError(f"{address} names no bucket. Name one, and a prefix in it: {address}bucket/shards")
        return Prefix(address.rstrip("/"))
    path = Path(address)
    scheme = path.parts[0] if path.parts else ""
    if len(scheme) > 2 and scheme.endswith(":") and not path.exists():  # it would become a local folder named http:
        raise InputError(
            f"{stored_address(address)} is neither a local folder nor a bucket (s3://, gs://, az://). Name one of them."
        )
    return Folder(path)
