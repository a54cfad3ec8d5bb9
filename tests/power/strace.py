"""What a process writes below a directory, call by call, as strace saw it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CALLS = (
    "open,openat,creat,write,pwrite64,writev,pwritev,lseek,ftruncate,truncate,fallocate,rename,renameat,renameat2,link,"
    "linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,fsync,fdatasync,sync_file_range,copy_file_range,"
    "sendfile,close,dup,dup2,dup3,fcntl"
)
LONGEST = 32 << 20  # bytes of one write
_HEX = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_RESULT = re.compile(r"\)\s+= (-?\d+|\?)")
_DESCRIPTOR = re.compile(r"(-?\d+|AT_FDCWD)(?:<([^>]*)>(\(deleted\))?)?")


@dataclass(frozen=True)
class Op:
    """One change. Paths are absolute and as the process named them."""

    kind: str  # create | write | truncate | rename | link | symlink | unlink | mkdir | rmdir | fsync
    path: str
    other: str = ""  # rename, link: the new name; symlink: what it points to
    offset: int = 0
    data: bytes = b""


def available() -> bool:
    """strace is installed, and this kernel lets it trace."""
    program = shutil.which("strace")
    return program is not None and subprocess.run([program, "-o", "/dev/null", "true"], check=False).returncode == 0


def record(argv: Sequence[str], root: Path, log: Path, **how: object) -> list[Op]:
    """Run a program to its end and return what it changed below `root`, in order."""
    flags = ["-f", "--seccomp-bpf", "-y", "-xx", "-s", str(LONGEST), "-e", f"trace={CALLS}", "-o", str(log)]
    subprocess.run(["strace", *flags, *argv], check=True, **how)  # type: ignore[call-overload]
    with log.open(encoding="ascii", errors="replace") as lines:
        ops = [op for op in Parser().ops(lines) if op.path.startswith(str(root))]
    log.unlink()
    return ops


class Parser:
    """strace's lines → ops. Descriptors of one open share their offset, as dup'ed ones do."""

    def __init__(self) -> None:
        # (descriptor, path): a child process has descriptors of its own, of other files
        self._offsets: dict[tuple[str, str], list[int]] = {}  # [offset], shared where it was dup'ed
        self._append: set[tuple[str, str]] = set()
        self._begun: dict[str, str] = {}  # thread → its unfinished call

    def ops(self, lines: Iterator[str]) -> Iterator[Op]:
        for line in lines:
            thread, _, text = line.rstrip("\n").partition(" ")
            text = text.strip()
            if text.endswith("<unfinished ...>"):
                self._begun[thread] = text.removesuffix("<unfinished ...>").rstrip()
                continue
            if text.startswith("<... "):
                text = self._begun.pop(thread) + text[text.index("resumed>") + len("resumed>") :]
            match = _RESULT.search(text)
            if match is None or match[1] == "?" or int(match[1]) < 0:
                continue
            name, _, rest = text[: match.start()].partition("(")
            handler = getattr(self, f"_{name}", None)
            if handler is not None:
                yield from handler(rest, int(match[1]), text[match.end() :])

    def _openat(self, rest: str, result: int, after: str) -> Iterator[Op]:
        path = _strings(rest)[0].decode()
        opened = _descriptor(f"{result}{after}")
        self._offsets[opened] = [0]
        self._append.discard(opened)
        if "O_APPEND" in rest:
            self._append.add(opened)
        if "O_CREAT" in rest:
            yield Op("create", path)
        if "O_TRUNC" in rest:
            yield Op("truncate", path)

    _open = _openat

    def _close(self, rest: str, result: int, after: str) -> Iterator[Op]:
        del result, after
        self._offsets.pop(_descriptor(rest), None)
        return iter(())

    def _dup(self, rest: str, result: int, after: str) -> Iterator[Op]:
        self._offsets[_descriptor(f"{result}{after}")] = self._offsets.get(_descriptor(rest), [0])
        return iter(())

    _dup2 = _dup3 = _dup

    def _fcntl(self, rest: str, result: int, after: str) -> Iterator[Op]:
        return self._dup(rest, result, after) if "F_DUPFD" in rest else iter(())

    def _lseek(self, rest: str, result: int, after: str) -> Iterator[Op]:
        del after
        self._offsets.setdefault(_descriptor(rest), [0])[0] = result
        return iter(())

    def _write(self, rest: str, result: int, after: str) -> Iterator[Op]:
        del after
        opened = _descriptor(rest)
        path, at = opened[1], self._offsets.setdefault(opened, [0])
        data = b"".join(_strings(rest))[:result]
        assert len(data) == result or not path.startswith("/"), f"strace cut a write of {result} bytes"
        yield Op("write", path, offset=-1 if opened in self._append else at[0], data=data)
        at[0] += result

    _writev = _write

    def _pwrite64(self, rest: str, result: int, after: str) -> Iterator[Op]:
        del after
        path = _descriptor(rest)[1]
        offset = int(rest.rsplit(",", 1)[1])
        yield Op("write", path, offset=offset, data=b"".join(_strings(rest))[:result])

    _pwritev = _pwrite64

    def _ftruncate(self, rest: str, result: int, after: str) -> Iterator[Op]:
        del result, after
        yield Op("truncate", _descriptor(rest)[1], offset=int(rest.rsplit(",", 1)[1]))

    def _fsync(self, rest: str, result: int, after: str) -> Iterator[Op]:
        del result, after
        yield Op("fsync", _descriptor(rest)[1])

    _fdatasync = _fsync

    def _renameat(self, rest: str, result: int, after: str) -> Iterator[Op]:
        del result, after
        old, new = _strings(rest)
        yield Op("rename", old.decode(), new.decode())

    _rename = _renameat2 = _renameat

    def _linkat(self, rest: str, result: int, after: str) -> Iterator[Op]:
        del result, after
        old, new = _strings(rest)
        yield Op("link", old.decode(), new.decode())

    _link = _linkat

    def _symlinkat(self, rest: str, result: int, after: str) -> Iterator[Op]:
        del result, after
        target, path = _strings(rest)
        yield Op("symlink", path.decode(), target.decode())

    _symlink = _symlinkat

    def _unlinkat(self, rest: str, result: int, after: str) -> Iterator[Op]:
        del result, after
        yield Op("rmdir" if "AT_REMOVEDIR" in rest else "unlink", _strings(rest)[0].decode())

    _unlink = _unlinkat

    def _rmdir(self, rest: str, result: int, after: str) -> Iterator[Op]:
        del result, after
        yield Op("rmdir", _strings(rest)[0].decode())

    def _mkdirat(self, rest: str, result: int, after: str) -> Iterator[Op]:
        del result, after
        yield Op("mkdir", _strings(rest)[0].decode())

    _mkdir = _mkdirat

    def _copy_file_range(self, rest: str, result: int, after: str) -> Iterator[Op]:
        """Calls whose bytes strace does not show: the disk of the replay knows no such op, and the test says so."""
        del result, after
        yield Op("unseen", _descriptor(rest.split(", ", 2)[2])[1])

    def _sendfile(self, rest: str, result: int, after: str) -> Iterator[Op]:
        del result, after
        yield Op("unseen", _descriptor(rest)[1])

    _fallocate = _sendfile


def _strings(text: str) -> list[bytes]:
    return [bytes.fromhex(found.replace("\\x", "")) for found in _HEX.findall(text)]


def _descriptor(text: str) -> tuple[str, str]:
    """The first argument's number and path; no path where the file has no name any more."""
    match = _DESCRIPTOR.match(text)
    assert match is not None, text[:100]
    raw = "" if match[3] else match[2] or ""
    return match[1], bytes.fromhex(raw.replace("\\x", "")).decode() if raw.startswith("\\x") else raw
