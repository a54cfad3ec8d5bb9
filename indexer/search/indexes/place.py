"""Where the index of a table lies: a folder beside a local table; for one in an object store, objects beside it and a
copy on this machine, in the user's cache directory.

The published manifest is replaced by a conditional put: of two machines that build at once, the second is refused, and
so is a builder that began before images were deleted, since its index holds them. A copy is downloaded under other
names, checked against the manifest's hashes, and switched by one atomic replace. A copy that was altered or lost is
downloaded again. The copies of all tables hold at most CACHE_BYTES, the last used stay.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from indexer.addresses import join
from indexer.ann.files import publish, sweep
from indexer.ann.index import VectorIndex, load
from indexer.ann.manifest import NAME, FileFact, Manifest, read_manifest
from indexer.errors import IndexFileError, StoreError, StoreLocked
from indexer.remote import objects
from indexer.remote.objects import Bucket, Tag
from indexer.store.table import EmbeddingStore
from indexer.store.writing.deleted import receipts

CACHE_BYTES = 64 << 30
BLOCK = 1 << 20
TRIES = 3  # each fails only where another machine published meanwhile


class IndexPlace:
    """The folder of a local table's index."""

    def __init__(self, store: EmbeddingStore) -> None:
        self.directory = store.index_directory
        self._manifest = self.directory / NAME

    def fetch(self) -> None:
        """Bring the published index here. Raises StoreError, IndexFileError."""

    def begin(self) -> None:
        """`fetch`, before an index is built. Raises StoreError, IndexFileError."""
        self.fetch()

    def publish(self, manifest: Manifest) -> None:
        """Make this generation, whose files are in `directory`, the current one. Raises StoreLocked, StoreError."""
        publish(self.directory, manifest)

    def sweep(self, keep: str) -> None:
        """Remove the files of other generations."""
        sweep(self.directory, keep)

    def withdraw(self) -> bool:
        """Remove what is published elsewhere than in `directory`; whether there was anything. Raises StoreError."""
        return False

    def stamp(self) -> object:
        """A value that changes when a builder publishes another index; None where there is none."""
        try:
            stat = self._manifest.stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def load(self, *, whole: bool = False) -> VectorIndex | None:
        """The current index, None where there is none; `whole` as in `ann.files.verify`. Raises IndexFileError."""
        return load(self.directory, whole=whole)


class PublishedPlace(IndexPlace):
    """The index of a table in an object store, and its copy on this machine."""

    def __init__(self, store: EmbeddingStore) -> None:
        super().__init__(store)
        self._store = store
        self._deletions = frozenset[str]()  # of images, when the build began
        self._what = f"the index of table {store.name} in {store.uri}"
        self._address = join(store.uri, f"{store.name}.faiss")
        self._tag: Tag | None = None  # of the manifest that was fetched or published last
        try:
            self._bucket = Bucket(self._address)
        except OSError as error:
            raise self._unreachable(error) from error

    def fetch(self) -> None:
        for left in reversed(range(TRIES)):
            try:
                self._fetch()
                return
            except FileNotFoundError as error:  # swept by a builder on another machine, which published a newer one
                if not left:
                    raise IndexFileError(f"{self._what}: a file is missing ({error}). Build it again.") from error
            except OSError as error:
                raise self._unreachable(error) from error

    def begin(self) -> None:
        self._deletions = self._deletions_now()
        self.fetch()

    def publish(self, manifest: Manifest) -> None:
        try:
            there = {found.path for found in objects.listed(f"{self._address}/")}
            for fact in manifest.files.values():
                if fact.name not in there:
                    objects.write_file(join(self._address, fact.name), self.directory / fact.name)
            tag = self._bucket.put_if(NAME, manifest.to_json().encode(), self._tag)
        except OSError as error:
            raise self._unreachable(error) from error
        if tag is None:
            raise StoreLocked(
                f"{self._what} was published by another machine meanwhile. Search with that one, or refresh it: "
                "indexer build-ann --refresh."
            )
        if self._deletions_now() != self._deletions:  # a later one removes this index by itself
            self.withdraw()
            raise StoreLocked(f"{self._what} was built of images that were deleted meanwhile. Build it again.")
        self._tag = tag
        super().publish(manifest)

    def sweep(self, keep: str) -> None:
        super().sweep(keep)
        with suppress(OSError):  # the next build sweeps again
            for found in list(objects.listed(f"{self._address}/")):
                if keep not in found.path and found.path != NAME:
                    self._bucket.delete(found.path)

    def withdraw(self) -> bool:
        try:
            if self._bucket.get(NAME) is not None:
                self._bucket.delete(NAME)  # first: without it nothing is downloaded, and copies elsewhere are removed
            return objects.remove_below(f"{self._address}/") > 0
        except OSError as error:
            raise self._unreachable(error) from error

    def stamp(self) -> object:
        try:
            return objects.facts(join(self._address, NAME)).tag
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreachable(error) from error

    def load(self, *, whole: bool = False) -> VectorIndex | None:
        self.fetch()
        try:
            return super().load(whole=whole)
        except IndexFileError:  # the copy was altered: the published files are what counts
            for path in self.directory.iterdir():
                path.unlink(missing_ok=True)
            self.fetch()
            return super().load(whole=whole)

    def _deletions_now(self) -> frozenset[str]:
        return frozenset(address for address, _ in receipts(self._store))

    def _fetch(self) -> None:
        """Raises OSError, IndexFileError."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = self._bucket.get(NAME)
        self._tag = found.tag if found else None
        if found is None:
            self._forget()
            return
        try:
            manifest = Manifest.from_json(found.data.decode())
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise IndexFileError(f"{self._what}: its manifest is damaged ({error}). Build it again.") from error
        with suppress(IndexFileError):
            if read_manifest(self.directory) == manifest:
                os.utime(self.directory)
                return
        for fact in manifest.files.values():
            if not (self.directory / fact.name).exists():
                self._download(fact)
        publish(self.directory, manifest)
        sweep(self.directory, manifest.generation)
        _bound(self.directory)

    def _forget(self) -> None:
        """Remove the copy of an index that was withdrawn, as after `indexer delete`."""
        with suppress(IndexFileError):
            copy = read_manifest(self.directory)
            for fact in copy.files.values() if copy is not None else ():
                (self.directory / fact.name).unlink(missing_ok=True)
        (self.directory / NAME).unlink(missing_ok=True)

    def _download(self, fact: FileFact) -> None:
        partial = self.directory / f".{fact.name}.{secrets.token_hex(4)}"
        digest, source = hashlib.sha256(), objects.stream(join(self._address, fact.name))
        try:
            with partial.open("wb") as file:
                while block := source.read(BLOCK):
                    digest.update(block)
                    file.write(block)
            if digest.hexdigest() != fact.sha256:
                raise IndexFileError(f"{self._what}: {fact.name} is not what its manifest says. Build it again.")
            partial.replace(self.directory / fact.name)
        finally:
            source.close()
            partial.unlink(missing_ok=True)

    def _unreachable(self, error: OSError) -> StoreError:
        return StoreError(f"{self._what} cannot be reached or copied to {self.directory}: {error}.")


def index_place(store: EmbeddingStore) -> IndexPlace:
    return IndexPlace(store) if store.path is not None else PublishedPlace(store)


def _bound(used: Path) -> None:
    """Remove the copies that were not used for longest, without `used`, until all hold at most CACHE_BYTES."""
    copies = sorted((path for path in used.parent.iterdir() if path != used), key=lambda path: path.stat().st_mtime)
    sizes = {path: _nbytes(path) for path in (used, *copies)}
    for path in copies:
        if sum(sizes.values()) <= CACHE_BYTES:
            return
        shutil.rmtree(path, ignore_errors=True)
        del sizes[path]


def _nbytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.iterdir())
