"""How memory and time of each command grow with the archive: bytes a row and the exponent of time, against a budget.

Each command runs on tables or folders of 1, 4 and 16 times a base size, in a fresh process for each size and repeat.
The process first runs the command twice on little data, which imports the libraries and shows its fixed cost; then
it runs it on the large data, and that is measured:

- Memory is the highest RssAnon of /proc/<pid>/status while the command runs, above what it was before, read by the
  parent each millisecond. Peak RSS (`VmHWM`, `ru_maxrss`) also counts pages of mapped files, which the kernel takes
  back when it needs them: a FAISS index that is mapped and read once would count in full. The slope is that of a
  least-squares line over the sizes; what does not grow is its intercept. Of a command whose buffers the smallest size
  does not fill (`Case.filled`), the line is over the larger two.
- Time is the process's own CPU time (user and system, from `getrusage`), because other work on the machine changes
  the wall clock more than it does CPU time. The exponent is the slope of a least-squares line through log time over
  log rows, both less those of the second run on little data. Times below `FLOOR_SECONDS` count as that.

Noise: a command that is over its budget is measured twice more; of three runs the median counts for memory and the
least for time. An allocator keeps some memory and Lance reads ahead by an amount that depends on its threads, not on
the rows: NOISE_BYTES at the largest size are allowed on top of each budget, as bytes a row in the column "allowed".
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.provenance import RESULTS, write
from benchmarks.scale_cases import CASES, DATA, Case

TIMES = (1, 4, 16)
AGAIN = 2  # more runs of what is over its budget
FLOOR_SECONDS = 0.05
SAMPLE_SECONDS = 0.001
MADE = "made"  # a file that ends the making of data
NOISE_BYTES = 8 << 20


@dataclass(frozen=True)
class Run:
    """One process."""

    rows: int
    nbytes: int  # highest anonymous memory above that before the command
    cpu_seconds: float  # less the fixed cost
    wall_seconds: float


@dataclass(frozen=True)
class Growth:
    """A case's figures over the sizes, beside its budget."""

    name: str
    rows: tuple[int, ...]
    nbytes: tuple[int, ...]
    cpu_seconds: tuple[float, ...]
    bytes_a_row: float
    allowed_bytes_a_row: float
    exponent: float
    allowed_exponent: float

    @property
    def over(self) -> list[str]:
        found = []
        if self.bytes_a_row > self.allowed_bytes_a_row:
            found.append(f"{self.name}: {self.bytes_a_row:.1f} bytes a row, allowed {self.allowed_bytes_a_row:.1f}")
        if self.exponent > self.allowed_exponent:
            found.append(f"{self.name}: time grows as n^{self.exponent:.2f}, allowed n^{self.allowed_exponent:.2f}")
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shrink", type=int, default=1, help="divide the base sizes: a quick look, not a verdict")
    parser.add_argument("--once", action="store_true", help="do not measure again what is over its budget")
    parser.add_argument("--only", metavar="WORD", action="append", help="the cases whose name holds this word")
    parser.add_argument("--folder", type=Path, help="where the data is made; default: a temporary folder")
    parser.add_argument("--data", type=Path, help="make the data here and leave it; what is there already is used")
    parser.add_argument("--out", type=Path, default=None, help="default: benchmarks/results/scale.json for a full run")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=3, metavar=("CASE", "WARM", "AT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child[0], Path(args.child[1]), Path(args.child[2]))
    cases = [c for c in CASES if not args.only or any(word in c.name for word in args.only)]
    started = time.monotonic()
    with nullcontext(args.data) if args.data else tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        growths = [g for data in DATA for g in _measure(Path(scratch), data, cases, args)]
    result: dict[str, Any] = {
        "seconds": round(time.monotonic() - started, 1),
        "cases": [asdict(g) for g in growths],
        "over_budget": [words for g in growths for words in g.over],
    }
    out = args.out or (RESULTS / "scale.json" if not args.only and args.shrink == 1 else None)
    if out:
        result = write(out, result)
    print(json.dumps(result) if args.json else table(growths, result))
    return 1 if result["over_budget"] else 0


def _measure(scratch: Path, data: str, cases: Sequence[Case], args: argparse.Namespace) -> list[Growth]:
    """Make one kind of data in each size, run its cases, and remove it."""
    own = [case for case in cases if case.data == data]
    if not own:
        return []
    sizes = [max(DATA[data].base // args.shrink, 2 * DATA[data].warm) * times for times in TIMES]
    folders = [scratch / f"{data}-{n}" for n in (DATA[data].warm, *sizes)]
    for folder, n in zip(folders, (DATA[data].warm, *sizes), strict=True):
        if not (folder / MADE).exists():
            make(data, folder, n)
    found = [_case(case, folders, sizes, again=0 if args.once else AGAIN) for case in own]
    for folder in () if args.data else folders:
        shutil.rmtree(folder)
    return found


def _case(case: Case, folders: Sequence[Path], sizes: Sequence[int], again: int) -> Growth:
    warm, *large = folders
    runs: list[list[Run]] = [[] for _ in sizes]
    for _ in range(1 + again):
        for own, at, n in zip(runs, large, sizes, strict=True):
            own.append(measure(case, warm, at, n))
        if not growth(case, runs).over:
            break
    return growth(case, runs)


def make(data: str, at: Path, n: int) -> None:
    """In a process of its own, so that the parent stays small and the next one starts clean."""
    code = "import sys; from pathlib import Path; from benchmarks.scale_cases import DATA; at = Path(sys.argv[2])\n"
    code += "at.mkdir(parents=True); DATA[sys.argv[1]].make(at, int(sys.argv[3]))"
    subprocess.run([sys.executable, "-c", code, data, str(at), str(n)], check=True)
    (at / MADE).touch()


def measure(case: Case, warm: Path, at: Path, rows: int) -> Run:
    """One run in a fresh process."""
    with tempfile.TemporaryDirectory(dir=at.parent) as scratch:
        if case.changes:
            copied = Path(scratch)
            warm, at = (shutil.copytree(p, copied / p.name, copy_function=os.link) for p in (warm, at))
        words = [sys.executable, "-m", "benchmarks.scale", "--child", case.name, str(warm), str(at)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.readline()  # warm
            peak = Peak(process.pid)
            process.stdin.write("go\n")
            process.stdin.flush()
            facts = process.stdout.readline()
            nbytes = peak.stop()
            process.stdin.close()
        if process.returncode:
            raise RuntimeError(f"{case.name} on {rows} rows ended with exit code {process.returncode}")
    return Run(rows, nbytes, **json.loads(facts))


class Peak:
    """The highest anonymous memory of a process, above that at the start, read until `stop`."""

    def __init__(self, pid: int) -> None:
        self._pid, self._done = pid, threading.Event()
        self._first = self._most = anonymous_bytes(pid)
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._most = max(self._most, anonymous_bytes(self._pid))

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        self._most = max(self._most, anonymous_bytes(self._pid))  # the thread may not have come to its turn
        return self._most - self._first


def anonymous_bytes(pid: int) -> int:
    """RssAnon: memory of a process that no file stands behind; 0 once it has ended."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon")), 0)


def child(name: str, warm: Path, at: Path) -> int:
    """Run one case: twice on the warm data, then, when the parent says so, on the large."""
    run = next(case.run for case in CASES if case.name == name)
    run(warm)
    before = _cpu_seconds()
    run(warm)
    fixed = _cpu_seconds() - before
    print("warm", flush=True)
    sys.stdin.readline()
    before, start = _cpu_seconds(), time.perf_counter()
    run(at)
    facts = {"cpu_seconds": _cpu_seconds() - before - fixed, "wall_seconds": time.perf_counter() - start}
    print(json.dumps(facts), flush=True)
    sys.stdin.readline()
    return 0


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def growth(case: Case, sizes: Sequence[Sequence[Run]]) -> Growth:
    rows = tuple(runs[0].rows for runs in sizes)
    nbytes = tuple(int(statistics.median(run.nbytes for run in runs)) for runs in sizes)
    seconds = tuple(min(run.cpu_seconds for run in runs) for runs in sizes)
    return Growth(
        case.name,
        rows,
        nbytes,
        seconds,
        slope(rows[case.filled :], nbytes[case.filled :]),
        case.bytes_a_row + NOISE_BYTES / rows[-1],
        slope(np.log(np.array(rows) - DATA[case.data].warm), np.log(np.maximum(seconds, FLOOR_SECONDS))),
        case.exponent,
    )


def slope(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float:
    """Of the least-squares line through the points."""
    return float(np.polyfit(np.asarray(x, np.float64), np.asarray(y, np.float64), 1)[0])


def table(growths: Sequence[Growth], result: dict[str, Any]) -> str:
    lines = [f"{'':30}{'rows':>12}{'MB at most':>12}{'B/row':>9}{'allowed':>9}{'CPU s':>9}{'n^':>7}{'allowed':>9}"]
    lines += [
        f"{g.name:30}{g.rows[-1]:12,}{g.nbytes[-1] / 1e6:12.1f}{g.bytes_a_row:9.1f}{g.allowed_bytes_a_row:9.1f}"
        f"{g.cpu_seconds[-1]:9.2f}{g.exponent:7.2f}{g.allowed_exponent:9.2f}{'  over' if g.over else ''}"
        for g in growths
    ]
    over = result["over_budget"]
    return "\n".join([*lines, f"over budget: {'; '.join(over) or 'none'}", f"{result['seconds']:.0f} s"])


if __name__ == "__main__":
    sys.exit(main())
