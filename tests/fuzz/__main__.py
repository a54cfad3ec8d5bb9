"""The fuzzer: `python -m tests.fuzz [--inputs 20000] [--seed N]`. One table; exit 1 on any fault.

Each target runs in a process of its own, which may write below its own folder and nowhere else: a seccomp filter
refuses and counts every other write. A process that dies costs the input it was at; the next one goes on behind it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.runs import build_library
from tests.fuzz.attack import HANG_SECONDS
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
SIDE_BY_SIDE = 2
WALL_SECONDS = 90.0  # without a word from a process: it hangs


@dataclass
class Outcome:
    """What became of one target's inputs."""

    inputs: int = 0
    words: Counter[str] = field(default_factory=Counter)
    raised: int = 0
    crashed: int = 0
    hung: int = 0
    outside: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.raised or self.crashed or self.hung or self.outside or self.wrong)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="One target.")
    options = parser.parse_args()
    started = time.monotonic()
    found = Path(tempfile.mkdtemp(prefix="fuzz-found-"))
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    build_library(root)
    names = [name for name in TARGETS if options.only in ("", name)]
    counts = {name: max(1, round(options.inputs * TARGETS[name].share)) for name in names}
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        outcomes = dict(
            zip(names, pool.map(lambda n: _target(n, counts[n], options.seed, root, found), names), strict=True)
        )
    for name, outcome in outcomes.items():
        for note in outcome.notes:
            print(f"{name}: {note}")  # noqa: T201 - the report
    _table(outcomes)
    clean = all(outcome.clean for outcome in outcomes.values())
    print(f"seed {options.seed}, {time.monotonic() - started:.0f} s" + ("" if clean else f", inputs in {found}"))  # noqa: T201
    subprocess.run(["rm", "-rf", root], check=True)
    if clean:
        found.rmdir()
    return 0 if clean else 1


def _target(name: str, count: int, seed: int, root: Path, found: Path) -> Outcome:
    outcome, start = Outcome(), 0
    while start < count:
        start = _process(name, start, count, seed, root, found, outcome)
    return outcome


def _process(name: str, start: int, count: int, seed: int, root: Path, found: Path, outcome: Outcome) -> int:
    """Let one process go on from input `start`; the input after the last one that was tried."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root))
    environment = {
        **os.environ, "TMPDIR": str(folder), "HOME": str(folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1", "MPLCONFIGDIR": str(folder),
    }  # fmt: skip
    argv = [
        sys.executable,
        "-m",
        "tests.fuzz.attack",
        name,
        str(start),
        str(count),
        str(seed),
        str(folder),
        str(root / "calls.so"),
    ]
    process = subprocess.Popen(
        argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    timer = _Watch(process)
    for line in process.stdout:
        timer.heard()
        facts: dict[str, Any] = json.loads(line)
        start = facts["next"]
        outcome.inputs += facts["inputs"]
        outcome.words.update(facts["words"])
        for fault in facts["faults"]:
            setattr(outcome, fault["kind"], getattr(outcome, fault["kind"]) + 1)
            outcome.notes.append(f"input {fault['number']}: {fault['kind']}: {fault['detail'][-700:]}")
            (found / f"{name}-{seed}-{fault['number']}").write_bytes(bytes.fromhex(fault["input"]))
    errors = process.stderr.read()
    code = process.wait()
    timer.stop()
    if code == 0:
        return start
    kind = "hung" if timer.fired else "crashed"
    setattr(outcome, kind, getattr(outcome, kind) + 1)
    at = folder / "current"
    if not at.exists():
        outcome.notes.append(f"could not begin: {errors[-1500:]}")
        return count
    number, data = at.read_bytes().split(b"\n", 1)
    (found / f"{name}-{seed}-{int(number)}").write_bytes(data)
    outcome.notes.append(f"input {int(number)}: {kind}, exit code {code}: {errors[-700:]}")
    outcome.inputs += int(number) + 1 - start
    return int(number) + 1


class _Watch:
    """Kills a process that has said nothing for too long."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        import threading

        self._process, self.fired, self._ended = process, False, threading.Event()
        self._last = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    def heard(self) -> None:
        self._last = time.monotonic()

    def stop(self) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            if time.monotonic() - self._last > WALL_SECONDS:
                self.fired = True
                self._process.send_signal(signal.SIGKILL)
                return


def _table(outcomes: dict[str, Outcome]) -> None:
    names = ("target", "inputs", "raised", "crashed", "hung", "outside", "wrong", "became")
    rows = [names]
    for name, o in outcomes.items():
        became = ", ".join(f"{word} {n}" for word, n in o.words.most_common(4))
        rows.append((name, *(str(getattr(o, kind)) for kind in names[1:7]), became))
    total = [sum(getattr(o, name) for o in outcomes.values()) for name in names[1:7]]
    rows.append(("all", *map(str, total), f"an input takes at most {HANG_SECONDS:.0f} s"))
    widths = [max(len(row[i]) for row in rows) for i in range(7)]
    for first, *others, became in rows:
        cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True)), became]
        print("  ".join(cells))  # noqa: T201 - the report


if __name__ == "__main__":
    raise SystemExit(main())
