"""All files below a folder, in a fixed order, with what is left out and why."""

from __future__ import annotations

import heapq
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from indexer.archive.spool import Spool
from indexer.errors import InputError

SORTED = 20_000  # names of one folder that are sorted in memory; a longer listing is merged from runs on disk
PACK_STATE = ".pack"  # state of `indexer pack` beside its shards; neither read nor counted as left out
PACK_LIST = "files.csv"  # in it: every file that was packed or left out


@dataclass(frozen=True)
class ListedFile:
    """A file of the listing."""

    path: str  # relative to the root, with "/"; bytes that are not UTF-8 as surrogates
    nbytes: int = 0
    modified: int = 0  # nanoseconds
    left_out: str = ""  # why it is not read


def walk(root: Path) -> Iterator[ListedFile]:
    """All files in the order of their paths' parts, whatever the file system's order. Memory is bounded.

    Links to files are followed; links to folders are not, since they may form a cycle. Raises InputError where `root`
    is not a folder or cannot be listed.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder. Name the folder that holds the images.")
    try:
        yield from _below(root, "")
    except PermissionError as error:
        raise InputError(f"{error.filename} cannot be listed: {error.strerror}.") from error


def _below(folder: Path, prefix: str, hidden: bool = False) -> Iterator[ListedFile]:
    for name, kind in _sorted(folder):
        path = prefix + name
        dotted = hidden or name.startswith(".")
        if kind == "folder":
            if name == PACK_STATE:
                continue
            try:
                yield from _below(folder / name, path + "/", dotted)
            except PermissionError:
                yield ListedFile(path + "/", left_out="folder that cannot be listed")
        else:
            yield _file(folder / name, path, hidden=dotted)


def _file(file: Path, path: str, *, hidden: bool) -> ListedFile:
    try:
        facts = file.stat()
    except OSError:
        return ListedFile(path, left_out="broken link")
    if stat.S_ISDIR(facts.st_mode):
        return ListedFile(path, left_out="link to a folder")
    if not stat.S_ISREG(facts.st_mode):
        return ListedFile(path, left_out="no regular file")
    return ListedFile(path, facts.st_size, facts.st_mtime_ns, "hidden file" if hidden else "")


def _sorted(folder: Path) -> Iterator[tuple[str, str]]:
    """(name, "folder" or "") of a folder's items, sorted by name. Raises PermissionError."""
    held: list[tuple[str, str]] = []
    runs = Spool()
    number = 0
    with os.scandir(folder) as listing:
        for item in listing:
            held.append((item.name, "folder" if item.is_dir(follow_symlinks=False) else ""))
            if len(held) == SORTED:
                for name, kind in sorted(held):
                    runs.append(number, f"{name}/{kind}")
                number, held = number + 1, []
    held.sort()
    if not number:
        yield from held
        return
    on_disk = (_run(runs, run) for run in range(number))
    yield from heapq.merge(held, *on_disk)


def _run(runs: Spool, number: int) -> Iterator[tuple[str, str]]:
    for line in runs.read(number):
        name, _, kind = line.rpartition("/")
        yield name, kind
