"""Durable writes: fsync of what is new below a directory, directories, and small files replaced whole.

Lance calls no fsync: after a power failure its newest manifest, or a data file that it names, may be empty.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from pathlib import Path

RECENT_SECONDS = 3600.0  # older files were flushed by the system long ago
CLOCK_SECONDS = 2.0  # file times are coarser than the clock
WRITTEN_ONCE = {"data", "_deletions", "_transactions"}  # directories of Lance's whose files have random names

_Entry = tuple[Path, bool, bool]


class DiskSync:
    """fsyncs what is new below a directory: files first, then the directories that name them.

    What is older than `since` (seconds since the epoch) was synced by somebody else. In Lance's directories of files
    that are written once, under names used once, only the names that came since the last call are looked at; a table
    has tens of thousands of them after a day of commits. One object serves one holder of the table's lock: a version
    that was rolled back since gives its manifest's name to another one.
    """

    def __init__(self, since: float = 0.0) -> None:
        self._since = since - CLOCK_SECONDS
        self._names: dict[Path, set[str]] = {}  # of WRITTEN_ONCE directories
        self._seen: set[tuple[str, int]] = set()  # (path, inode) elsewhere: a renamed-over file is a new one

    def sync(self, root: Path) -> None:
        """Raises OSError."""
        known = (str(root), root.stat().st_ino)
        recent = max(time.time() - RECENT_SECONDS, self._since)
        if known not in self._seen:  # its own name stands in its parent
            fsync(root.parent)
        folders, fresh = [root], list[tuple[Path, list[Path]]]()
        for folder in folders:  # which grows by each one's subdirectories
            entries = self._once(folder, recent) if folder.name in WRITTEN_ONCE else self._any(folder, recent)
            folders += [path for path, is_folder, _ in entries if is_folder]
            if any(new for _, _, new in entries):
                fresh.append((folder, [path for path, is_folder, new in entries if new and not is_folder]))
        for folder, files in sorted(reversed(fresh), key=lambda item: _turn(root, item[0])):
            for file in files:
                with suppress(FileNotFoundError):  # another writer's temporary file, renamed since: that one syncs it
                    fsync(file)
            fsync(folder)
        self._seen.add(known)

    def _once(self, folder: Path, recent: float) -> list[_Entry]:
        """(path, is a directory, is to be synced) of each name that came since the last call."""
        names = set(os.listdir(folder))  # noqa: PTH208 - the names alone, without an object for each
        came, self._names[folder] = sorted(names - self._names.get(folder, set())), names
        entries: list[_Entry] = []
        for path in (folder / name for name in came):
            try:
                found = path.stat()
            except FileNotFoundError:  # a temporary file, renamed since
                continue
            entries.append((path, stat.S_ISDIR(found.st_mode), found.st_mtime >= recent))
            if entries[-1][1]:
                names.discard(path.name)  # looked into by every call
        return entries

    def _any(self, folder: Path, recent: float) -> list[_Entry]:
        """(path, is a directory, is to be synced) of each directory, and of each file that was not seen before."""
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
    """Manifests follow what they name, and the table's own directory comes last."""
    return 2 if directory == root else int(directory.name == "_versions")


def fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(path: Path) -> None:
    """Make it and its parents, each known to the disk."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for made in missing:
        fsync(made.parent)


def replace_file(path: Path, text: str) -> None:
    """Write a small file: whole and on the disk, or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    fsync(partial)
    partial.replace(path)
    fsync(path.parent)
