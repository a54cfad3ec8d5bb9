"""Starting the real command, killing it, and hearing how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
HANG_SECONDS = 600.0  # no command of these scenarios takes a fiftieth of it on a quiet machine
START_SECONDS = 600.0


class Kind(IntFlag):
    """The calls of `calls.c`."""

    WRITE, SYNC, RENAME, UNLINK, CREATE, CUT = 1, 2, 4, 8, 16, 32
    ALL = 63
    STEPS = SYNC | RENAME | UNLINK  # the moments between which a state is neither old nor new


class Action(IntEnum):
    COUNT, KILL_BEFORE, KILL_AFTER, FAIL_ONCE, FAIL_ON, REFUSE_OUTSIDE = range(6)


@dataclass(frozen=True)
class Arm:
    """Count the calls that change files below `root`; at the `at`-th of these kinds, act."""

    root: Path
    kinds: int = Kind.ALL
    at: int = 0
    action: Action = Action.COUNT
    error: int = 0


@dataclass
class Run:
    """One started command."""

    number: int
    argv: list[str]
    folder: Path
    pid: int = 0
    code: int | None = None  # negative: the signal that ended it
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    processor_seconds: float = 0.0  # of all its threads, once it has ended

    @property
    def out(self) -> str:
        return self._text("out")

    @property
    def err(self) -> str:
        return self._text("err")

    @property
    def events(self) -> int:
        """How many calls were counted."""
        path = self.folder / f"{self.number}.events"
        return int.from_bytes(path.read_bytes()[:8], sys.byteorder) if path.exists() else 0

    @property
    def where(self) -> str:
        """The call that was acted on, e.g. "17 rename /db/t.lance/_versions/…"; empty where none was reached."""
        return self._text("note").strip()

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    def processor_seconds_so_far(self) -> float:
        """Of a running command: user and system time of all its threads; 0 where it has just ended."""
        with contextlib.suppress(psutil.Error):
            used = psutil.Process(self.pid).cpu_times()
            return float(used.user + used.system)
        return 0.0

    def signal(self, number: int) -> None:
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _text(self, kind: str) -> str:
        path = self.folder / f"{self.number}.{kind}"
        return path.read_text(errors="replace") if path.exists() else ""


class Zygote:
    """The process that forks the commands. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.library = build_library(folder)
        self.keep_nothing = False  # clean-ups drop every version that no tag holds, not only those of yesterday
        self._runs: dict[int, Run] = {}
        self._number = 0
        self._rest = b""

    def __enter__(self) -> Zygote:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote", str(self.library)],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        if not any("ready" in facts for facts in self._hear(START_SECONDS)):
            raise RuntimeError("the zygote did not start")
        return self

    def __exit__(self, *_: object) -> None:
        for run in self._runs.values():
            run.signal(signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()

    def start(self, *argv: object, arm: Arm | None = None, plain: bool = False, file_bytes: int = 0) -> Run:
        """Start `indexer <argv>` and return when it has begun; `plain`: even root obeys permissions."""
        self._number += 1
        run = Run(self._number, ["indexer", *map(str, argv)], self.folder)
        self._runs[run.number] = run
        at = {name: str(self.folder / f"{run.number}.{name}") for name in ("out", "err", "events", "note")}
        request: dict[str, Any] = {
            "number": run.number, "argv": run.argv, "out": at["out"], "err": at["err"], "plain": plain,
            "keep_nothing": self.keep_nothing,
            "file_bytes": file_bytes,
            "arm": {**asdict(arm), "root": str(arm.root), "events": at["events"], "note": at["note"]} if arm else None,
        }  # fmt: skip
        os.write(self._process.stdin.fileno(), json.dumps(request).encode() + b"\n")
        while not run.pid:
            self._learn(1.0)
        return run

    def wait(self, run: Run, seconds: float = HANG_SECONDS) -> Run:
        """Until the command has ended; one that has not after `seconds` is killed and raises TimeoutError."""
        end = time.monotonic() + seconds
        while run.code is None:
            self._learn(0.5)
            if time.monotonic() > end:
                run.signal(signal.SIGKILL)
                raise TimeoutError(f"{' '.join(run.argv)} did not end in {seconds:.0f} s\n{run.err}")
        return run

    def wait_some(self, run: Run, seconds: float) -> bool:
        """Wait at most so long; whether it has ended."""
        end = time.monotonic() + seconds
        while run.code is None and time.monotonic() < end:
            self._learn(max(0.0, min(0.5, end - time.monotonic())))
        return run.code is not None

    def run(self, *argv: object, seconds: float = HANG_SECONDS, **how: Any) -> Run:
        return self.wait(self.start(*argv, **how), seconds)

    def _learn(self, seconds: float) -> None:
        for facts in self._hear(seconds):
            run = self._runs[facts["number"]]
            if "pid" in facts:
                run.pid = facts["pid"]
            else:
                run.code, run.seconds = facts["code"], time.monotonic() - run.started
                run.processor_seconds = facts["processor_seconds"]
                del self._runs[run.number]

    def _hear(self, seconds: float) -> Iterator[dict[str, Any]]:
        pipe = self._process.stdout.fileno()
        if not select.select([pipe], [], [], seconds)[0]:
            return
        block = os.read(pipe, 1 << 16)
        if not block:
            raise RuntimeError("the zygote is gone")
        *lines, self._rest = (self._rest + block).split(b"\n")
        yield from map(json.loads, lines)


def scratch() -> Path:
    """A folder in memory where the system has one: a process that is killed loses nothing that it has written, synced
    or not, and most of the time would go into the disk's syncs. (Power loss is `tests.power`'s.)
    """
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="faults-", dir=memory if memory.is_dir() else None))


def build_library(folder: Path) -> Path:
    """Compile calls.c with the compiler that Python was built with, or cc."""
    target = folder / "calls.so"
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    for name in (compiler, "cc"):
        with contextlib.suppress(FileNotFoundError):
            source = Path(__file__).with_name("calls.c")
            subprocess.run([name, "-O2", "-shared", "-fPIC", "-o", target, source], check=True)
            return target
    raise RuntimeError("the fault tests need a C compiler")
