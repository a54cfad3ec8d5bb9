"""Durable writes: fsync of new files below a directory, durable directories, atomic replacement of small files.

Lance calls no fsync: after a power failure its newest manifest, or a data file named in it, may be empty.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from pathlib import Path

RECENT_SECONDS = 3600.0  # older files were flushed by the system long ago
CLOCK_SECONDS = 2.0  # tolerance: file times are coarser than the clock
WRITTEN_ONCE = {"data", "_deletions", "_transactions"}  # Lance's directories of files with random names

_Entry = tuple[Path, bool, bool]


class DiskSync:
    """fsyncs new files below a directory: files first, then the directories that contain them.

    Files older than `since` (seconds since the epoch) count as synced. In Lance's directories of files that are written
    once under unique names, only names added since the last call are examined; a table has tens of thousands of them
    after a day of commits. An object must not outlive the hold of the table's lock: after a rollback the name of a
    manifest is reused.
    """

    def __init__(self, since: float = 0.0) -> None:
        self._since = since - CLOCK_SECONDS
        self._names: dict[Path, set[str]] = {}  # of WRITTEN_ONCE directories
        # (path, inode) of other directories, where files are replaced by rename
        self._seen: set[tuple[str, int]] = set()

    def sync(self, root: Path) -> None:
        """Sync everything new below `root`. Raises OSError."""
        known = (str(root), root.stat().st_ino)
        recent = max(time.time() - RECENT_SECONDS, self._since)
        if known not in self._seen:  # its name is an entry of its parent
            fsync(root.parent)
        folders, fresh = [root], list[tuple[Path, list[Path]]]()
        for folder in folders:  # extended by subdirectories in the loop
            entries = self._once(folder, recent) if folder.name in WRITTEN_ONCE else self._any(folder, recent)
            folders += [path for path, is_folder, _ in entries if is_folder]
            if any(new for _, _, new in entries):
                fresh.append((folder, [path for path, is_folder, new in entries if new and not is_folder]))
        for folder, files in sorted(reversed(fresh), key=lambda item: _turn(root, item[0])):
            for file in files:
                # Another writer's temporary file, renamed since; that writer syncs it
                with suppress(FileNotFoundError):
                    fsync(file)
            fsync(folder)
        self._seen.add(known)

    def _once(self, folder: Path, recent: float) -> list[_Entry]:
        """(path, is a directory, is to be synced) of each name added since the last call."""
        names = set(os.listdir(folder))  # noqa: PTH208 - names only, without an object for each
        came, self._names[folder] = sorted(names - self._names.get(folder, set())), names
        entries: list[_Entry] = []
        for path in (folder / name for name in came):
            try:
                found = path.stat()
            except FileNotFoundError:  # a temporary file, renamed since
                continue
            entries.append((path, stat.S_ISDIR(found.st_mode), found.st_mtime >= recent))
            if entries[-1][1]:
                names.discard(path.name)  # a directory: examined by every call
        return entries

    def _any(self, folder: Path, recent: float) -> list[_Entry]:
        """(path, is a directory, is to be synced) of each directory, and of each file not seen before."""
        entries: list[_Entry] = []
        with os.scandir(folder) as found:
            for entry in found:
                name = (entry.path, entry.inode())
                new = name not in self._seen
                is_folder = entry.is_dir(follow_symlinks=False)
                if new:
                    try:
                        new = entry.stat().st_mtime >= recent
                    except FileNotFoundError:
                        continue
                    self._seen.add(name)
                if new or is_folder:
                    entries.append((Path(entry.path), is_folder, new))
        return entries


def _turn(root: Path, directory: Path) -> int:
    """Sort key of the order of syncing: manifests after the files they name, the table's own directory last."""
    return 2 if directory == root else int(directory.name == "_versions")


def fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(path: Path) -> None:
    """Create the directory and its parents, and fsync each."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for made in missing:
        fsync(made.parent)


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a small file atomically and durably: temporary file, fsync, rename."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    fsync(partial)
    partial.replace(path)
    fsync(path.parent)


def read_small(path: Path, most: int = 64 << 20) -> bytes:
    """A small file's bytes. Raises OSError, and ValueError for a device, a pipe, or a file of more than `most` bytes.

    A file that somebody handed over may be one of these, or a link to one: reading it would not end.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError(f"{path.name} is no regular file")
        if facts.st_size > most:
            raise ValueError(f"{path.name} has over {most:,} bytes")
        return file.read()


def read_bounded(path: Path, most: int) -> bytes:
    """The bytes of a file or pipe that the user names. Raises OSError, and ValueError for more than `most` bytes."""
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{path} has over {most:,} bytes")
    return data
