"""A disk that forgets: what may stand on it when the power goes after the n-th call.

Data lasts once its file was fsynced, a name once its directory was. What was not synced may be there or not: file by
file for data, and up to some moment of each directory for names.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.power.strace import Op

Names = dict[str, "File | Directory | Link"]


@dataclass(eq=False)
class File:
    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""


@dataclass(eq=False)
class Link:
    target: str


@dataclass(eq=False)
class Directory:
    names: Names = field(default_factory=dict)
    synced: Names = field(default_factory=dict)
    states: list[Names] = field(default_factory=list)  # after each change since the last fsync, the last is `names`

    def changed(self) -> None:
        self.states.append(dict(self.names))


@dataclass(frozen=True)
class Variant:
    """How much of what was not synced is left."""

    name: str
    names: Callable[[Directory], Names]
    data: Callable[[File], bytes]


class Disk:
    """Everything below `root`, which exists and lasts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._top = Directory()

    def apply(self, op: Op) -> None:
        getattr(self, f"_{op.kind}")(op)

    def left(self, variant: Variant) -> dict[str, bytes | str | None]:
        """Path → bytes of a file, target of a link, None for a directory: what `variant` says is left."""
        found: dict[str, bytes | str | None] = {}
        _gather(self._top, "", variant, found)
        return found

    def _create(self, op: Op) -> None:
        directory, name = self._place(op.path)
        if name not in directory.names:
            directory.names[name] = File()
            directory.changed()

    def _mkdir(self, op: Op) -> None:
        directory, name = self._place(op.path)
        directory.names[name] = Directory()
        directory.changed()

    def _symlink(self, op: Op) -> None:
        directory, name = self._place(op.path)
        directory.names[name] = Link(op.other)
        directory.changed()

    def _write(self, op: Op) -> None:
        file = self._file(op.path)
        offset = len(file.data) if op.offset < 0 else op.offset
        file.data.extend(bytes(max(0, offset - len(file.data))))
        file.data[offset : offset + len(op.data)] = op.data

    def _truncate(self, op: Op) -> None:
        file = self._file(op.path)
        del file.data[op.offset :]
        file.data.extend(bytes(op.offset - len(file.data)))

    def _rename(self, op: Op) -> None:
        (old, name), (new, as_name) = self._place(op.path), self._place(op.other)
        new.names[as_name] = old.names.pop(name)
        new.changed()
        if old is not new:
            old.changed()

    def _link(self, op: Op) -> None:
        (old, name), (new, as_name) = self._place(op.path), self._place(op.other)
        new.names[as_name] = old.names[name]
        new.changed()

    def _unlink(self, op: Op) -> None:
        directory, name = self._place(op.path)
        del directory.names[name]
        directory.changed()

    _rmdir = _unlink

    def _fsync(self, op: Op) -> None:
        entry = self._find(op.path)
        if isinstance(entry, File):
            entry.synced = bytes(entry.data)
        else:
            assert isinstance(entry, Directory), op.path
            entry.synced, entry.states = dict(entry.names), []

    def _find(self, path: str) -> File | Directory | Link:
        entry: File | Directory | Link = self._top
        for part in Path(path).relative_to(self.root).parts:
            assert isinstance(entry, Directory), path
            entry = entry.names[part]
        return entry

    def _file(self, path: str) -> File:
        entry = self._find(path)
        assert isinstance(entry, File), path
        return entry

    def _place(self, path: str) -> tuple[Directory, str]:
        directory = self._find(str(Path(path).parent))
        assert isinstance(directory, Directory), path
        return directory, Path(path).name


def _gather(directory: Directory, at: str, variant: Variant, found: dict[str, bytes | str | None]) -> None:
    for name, entry in variant.names(directory).items():
        path = f"{at}/{name}".lstrip("/")
        if isinstance(entry, Directory):
            found[path] = None
            _gather(entry, path, variant, found)
        else:
            found[path] = entry.target if isinstance(entry, Link) else variant.data(entry)


def lay_out(left: dict[str, bytes | str | None], target: Path) -> None:
    target.mkdir(parents=True)
    for name, entry in left.items():  # directories come before what is in them
        if entry is None:
            (target / name).mkdir()
        elif isinstance(entry, str):
            (target / name).symlink_to(entry)
        else:
            (target / name).write_bytes(entry)


def _zeroed(file: File) -> bytes:
    """The length is on the disk, the bytes are not."""
    return file.synced + bytes(max(0, len(file.data) - len(file.synced)))


ALL = Variant("all of it", lambda directory: directory.names, lambda file: bytes(file.data))  # as after a kill
NONE = Variant("nothing", lambda directory: directory.synced, lambda file: file.synced)
NAMES = Variant("names, files empty", lambda directory: directory.names, lambda file: file.synced)
LENGTHS = Variant("names, files of zeros", lambda directory: directory.names, _zeroed)


def some(seed: str) -> Variant:
    """A draw for each directory and file."""
    rng = random.Random(seed)
    drawn: dict[int, bytes] = {}  # a file may have two names

    def names(directory: Directory) -> Names:
        return rng.choice([directory.synced, *directory.states])

    def data(file: File) -> bytes:
        if id(file) not in drawn:
            cut = bytes(file.data)[: rng.randrange(len(file.synced), max(len(file.synced), len(file.data)) + 1)]
            drawn[id(file)] = rng.choice([bytes(file.data), file.synced, _zeroed(file), cut])
        return file.synced if file.synced == file.data else drawn[id(file)]

    return Variant("a draw", names, data)


def replayed(root: Path, ops: Iterable[Op]) -> Disk:
    disk = Disk(root)
    for op in ops:
        disk.apply(op)
    return disk
