"""How long a command takes from the shell, in a fresh process: `python -m benchmarks.start`.

Four commands, each the least of several runs: the help of both programs, a search by the key of a stored row in a table
of a million rows with its index (no encoder is loaded), and a search by an image file with the bundled encoder in a
table of 90 pictures. The files are in the page cache; nothing else is warm. Beside the wall clock stands the CPU time
of the process, which other work on the machine changes less: where it exceeds the wall clock, threads ran in parallel.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.provenance import RESULTS, write
from benchmarks.scale_cases import DIM, command
from benchmarks.scale_data import make_table
from indexer.store.table import EmbeddingStore

OUT = RESULTS / "start.json"


@dataclass(frozen=True)
class Start:
    """One command."""

    name: str
    wall_seconds: float
    cpu_seconds: float
    goal_seconds: float  # of the wall clock, on an idle machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--database", type=Path, help="a database with one table and its index, in place of a new one")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows, pictures = args.database or Path(scratch) / "rows", Path(scratch) / "pictures"
        if args.database is None:
            make_table(rows, "t", args.rows, DIM)
            command("indexer", "build-ann", rows, "--kind", "ivf-fp16")
        store = EmbeddingStore.open(str(rows))
        count, asked_key = store.count(), first_key(store)
        subprocess.run([sys.executable, "-m", "indexer.demo.photos", str(pictures)], check=True, capture_output=True)
        command("indexer", "index", pictures / "photos", pictures / "db")
        asked: tuple[tuple[str, Sequence[str], float], ...] = (
            ("indexer -h", ("indexer", "-h"), 0.15),
            ("probes -h", ("probes", "-h"), 0.15),
            (f"search by key, {count:,} rows", ("indexer", "search", str(rows), "--key", asked_key), 0.5),
            ("search by image", ("indexer", "search", str(pictures / "db"), str(pictures / "query.png")), 2.0),
        )
        found = [measured(name, words, goal, args.times) for name, words, goal in asked]
    result: dict[str, Any] = {
        "rows": count, "times": args.times,
        "commands": [asdict(start) for start in found],
        "over_goal": [start.name for start in found if start.wall_seconds > start.goal_seconds],
    }  # fmt: skip
    result = write(OUT, result)
    print(json.dumps(result) if args.json else table(found))


def first_key(store: EmbeddingStore) -> str:
    batch = next(iter(store.scan(["key"], None, batch_rows=1)))
    return str(batch.column("key")[0])


def measured(name: str, words: Sequence[str], goal: float, times: int) -> Start:
    """The least wall clock and the least CPU time of so many fresh processes."""
    walls, cpus = [], []
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # as installed: compiled
    for _ in range(times):
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        _, status, usage = os.wait4(process.pid, 0)
        walls.append(time.perf_counter() - started)
        cpus.append(usage.ru_utime + usage.ru_stime)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(words)} ended with exit code {process.returncode}")
    return Start(name, min(walls), min(cpus), goal)


def table(found: Sequence[Start]) -> str:
    lines = [f"{'':34}{'wall s':>9}{'CPU s':>9}{'goal s':>9}"]
    lines += [f"{s.name:34}{s.wall_seconds:9.2f}{s.cpu_seconds:9.2f}{s.goal_seconds:9.2f}" for s in found]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
