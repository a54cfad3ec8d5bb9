"""Records which files of an index were hashed, so that a search does not hash the whole index at its start.

A file counts as unchanged while its device, inode, size, mtime and ctime are the same. File times are coarse: a file
that changed less than SETTLED_SECONDS before it was hashed is not recorded. The record lies beside the index, or in the
user's cache directory where that is not writable.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from indexer.disk import replace_file

NOTES = "verified-{}.json"  # by generation
MOST_BYTES = 1 << 16
SETTLED_SECONDS = 2.0

State = tuple[int, int, int, int, int]  # device, inode, bytes, mtime_ns, ctime_ns


def state_of(path: Path) -> State:
    """The state of a file. Raises FileNotFoundError."""
    s = path.stat()
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


class Verified:
    """The recorded hashes of one generation of an index."""

    def __init__(self, directory: Path, generation: str) -> None:
        self._places = [directory / NOTES.format(generation), _cache_place(directory, generation)]
        self._known: dict[str, tuple[State, str]] = {}
        for place in self._places:
            self._known |= _read(place)
        self._new = False

    def knows(self, path: Path, state: State, sha256: str) -> bool:
        """Whether the file is recorded with this state and hash."""
        return self._known.get(path.name) == (state, sha256)

    def note(self, path: Path, before: State, sha256: str) -> None:
        """Record the file's hash; `before` is its state before it was read."""
        newest = max(before[3:]) / 1e9
        if state_of(path) == before and abs(time.time() - newest) > SETTLED_SECONDS:
            self._known[path.name] = (before, sha256)
            self._new = True

    def save(self) -> None:
        """Write the record to the first writable place. Where there is none, the next search hashes again."""
        if not self._new:
            return
        text = json.dumps({name: {"state": state, "sha256": sha} for name, (state, sha) in self._known.items()})
        for place in self._places:
            with suppress(OSError):
                if place != self._places[0]:
                    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                replace_file(place, text)
                return


def _cache_place(directory: Path, generation: str) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(str(directory.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return root / "embedding-indexer" / f"{name}-{NOTES.format(generation)}"


def _read(place: Path) -> dict[str, tuple[State, str]]:
    """The records in a file; none where it is missing, not a small regular file, or malformed."""
    try:
        fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MOST_BYTES:
            return {}
        out: dict[str, tuple[State, str]] = {}
        for name, note in json.loads(os.read(fd, MOST_BYTES)).items():
            device, inode, nbytes, mtime, ctime = map(int, note["state"])
            out[str(name)] = ((device, inode, nbytes, mtime, ctime), str(note["sha256"]))
        return out
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return {}
    finally:
        os.close(fd)
