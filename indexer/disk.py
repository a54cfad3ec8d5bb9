"""Durable writes: fsync of what is new below a directory, directories, and small files replaced whole.

Lance calls no fsync: after a power failure its newest manifest, or a data file that it names, may be empty.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

RECENT_SECONDS = 3600.0  # older files were flushed by the system long ago
CLOCK_SECONDS = 2.0  # file times are coarser than the clock


class DiskSync:
    """fsyncs what is new below a directory: files first, then the directories that name them.

    What is older than `since` (seconds since the epoch) was synced by somebody else.
    """

    def __init__(self, since: float = 0.0) -> None:
        self._since = since - CLOCK_SECONDS
        self._seen: set[tuple[str, int]] = set()  # (path, inode): a renamed-over file is a new one

    def sync(self, root: Path) -> None:
        """Raises OSError."""
        known = (str(root), root.stat().st_ino)
        recent = max(time.time() - RECENT_SECONDS, self._since)
        if known not in self._seen:  # its own name stands in its parent
            fsync(root.parent)
        folders = [Path(folder) for folder, _, _ in os.walk(root, topdown=False)]
        for folder in sorted(folders, key=lambda folder: _turn(root, folder)):
            with os.scandir(folder) as entries:
                fresh = [entry for entry in entries if self._is_new(entry, recent)]
            for entry in fresh:
                if entry.is_file():
                    fsync(Path(entry.path))
            if fresh:
                fsync(folder)
        self._seen.add(known)

    def _is_new(self, entry: os.DirEntry[str], recent: float) -> bool:
        name = (entry.path, entry.inode())
        if name in self._seen:  # thousands of files, after a day's commits: not even a stat for those
            return False
        try:
            changed = entry.stat().st_mtime
        except FileNotFoundError:
            return False
        self._seen.add(name)
        return changed >= recent


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
