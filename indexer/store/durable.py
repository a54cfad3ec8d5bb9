"""What is written reaches the disk before the next step, and what a power failure broke is taken back.

Lance calls no fsync: after a power failure its newest manifest, or a data file that it names, may be empty. So the
writer syncs a table after each commit and before it goes on; at most the newest commit of a table is then in doubt,
and `mend`, under the writer's lock, drops that version where its files are not whole. The ledger row of a shard is
written after its rows have been synced, so nothing that a ledger row promises can be lost this way.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lance

from indexer.errors import StoreError
from indexer.store.filters import first_line

RECENT_SECONDS = 3600.0  # older files were flushed by the system long ago
MANIFEST_DIGITS = 20  # Lance names a manifest 2^64 - 1 - version, so that the newest sorts first
IN_DOUBT = 3  # versions; a commit of ours makes at most so many before it is synced


class DiskSync:
    """fsyncs what is new below a directory: files first, then the directories that name them."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, int]] = set()  # (path, inode): a renamed-over file is a new one

    def sync(self, root: Path) -> None:
        """Raises OSError."""
        known = (str(root), root.stat().st_ino)
        recent = time.time() - RECENT_SECONDS
        if known not in self._seen:  # its own name stands in its parent
            fsync(root.parent)
        for directory, folders, files in os.walk(root, topdown=False):
            fresh = [entry for entry in (*files, *folders) if self._is_new(Path(directory, entry), recent)]
            for name in fresh:
                path = Path(directory, name)
                if name in files:
                    fsync(path)
            if fresh:
                fsync(Path(directory))
        self._seen.add(known)

    def _is_new(self, path: Path, recent: float) -> bool:
        try:
            stat = path.stat()
        except FileNotFoundError:
            return False
        if (str(path), stat.st_ino) in self._seen:
            return False
        self._seen.add((str(path), stat.st_ino))
        return stat.st_mtime >= recent


def fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Lance's errors of a write become one line of ours. Nothing is committed twice: a rerun looks what is there."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        cause = first_line(error)
        full = "No space left" in str(error) or "os error 28" in str(error)
        way_out = "Free some space" if full else "Mend the cause"
        raise StoreError(
            f"{what} cannot be written ({'no space left on the disk' if full else cause}). {way_out} and run the same "
            "command again; what is stored stays."
        ) from error


def mend(path: Path) -> int:
    """Take back the newest versions of a table whose files are not whole; returns how many.

    Only the holder of the writer's lock may call it. Raises StoreError where no older version is whole either.
    """
    manifests = [m for m in _manifests(path) if len(m.stem) == MANIFEST_DIGITS]
    broken: list[Path] = []
    cause: str | None = None
    for manifest in manifests[: IN_DOUBT + 1]:
        cause = damage(path, 2**64 - 1 - int(manifest.stem)) or None
        if cause is None:
            break
        broken.append(manifest)
    if cause is not None and len(broken) > IN_DOUBT:
        raise StoreError(f"{path} is damaged in its last {len(broken)} versions ({cause}). Restore it from a backup.")
    for manifest in broken:  # also the only one: then the table was never finished
        manifest.rename(manifest.with_suffix(".damaged"))
    if broken:
        fsync(path / "_versions")
    return len(broken)


def damage(path: Path, version: int) -> str | None:
    """Why this version cannot be read, or None where all its files are there and have their sizes."""
    try:
        dataset = lance.dataset(str(path), version=version)
        for fragment in dataset.get_fragments():
            for file in fragment.data_files():
                nbytes = (path / "data" / file.path).stat().st_size
                if file.file_size_bytes and nbytes != file.file_size_bytes:
                    return f"{file.path} has {nbytes} bytes, not {file.file_size_bytes}"
            if fragment.metadata.deletion_file is not None:
                fragment.to_table(columns=[], with_row_id=True)
    except (ValueError, OSError) as error:
        return first_line(error)
    return None


def exists(path: Path) -> bool:
    """Is there a table with at least one version. A crash while it was made leaves a folder without one."""
    return bool(_manifests(path))


def _manifests(path: Path) -> list[Path]:
    """Newest first."""
    return sorted((path / "_versions").glob("*.manifest"))
