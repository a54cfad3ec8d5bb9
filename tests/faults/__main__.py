"""All fault scenarios: `python -m tests.faults [--seed N] [--kills 200]`. One table; exit 1 on any loss."""

from __future__ import annotations

import argparse
import shutil
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults import disk, material, neighbours
from tests.faults.command import same_as_the_command
from tests.faults.errors import errors
from tests.faults.kills import killed, lives, stopped, truth
from tests.faults.runs import Kind, Zygote, scratch
from tests.faults.tally import Tally, merged, table

SIDE_BY_SIDE = 2  # scenarios at once, each with a zygote of its own
HALVES = 2  # the long ones are cut in two

Job = Callable[[Zygote], Tally]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--only", default="", help="Scenarios whose name holds this word.")
    options = parser.parse_args()
    root = scratch()
    started = time.monotonic()
    tallies = merged(_run(_jobs(options, root), root))
    for tally in tallies:
        for note in tally.notes:
            print(f"{tally.fault}: {note}")  # noqa: T201 - the report
        if tally.hit:
            struck = ", ".join(f"{where} {n}" for where, n in sorted(tally.hit.items()))
            print(f"{tally.fault} struck: {struck}")  # noqa: T201
    print(table(tallies))  # noqa: T201
    print(f"seed {options.seed}, {time.monotonic() - started:.0f} s")  # noqa: T201
    clean = all(tally.clean for tally in tallies)
    if clean:
        shutil.rmtree(root)
    else:
        print(f"what was wrong is kept in {root}")  # noqa: T201
    return 0 if clean else 1


def _jobs(options: argparse.Namespace, root: Path) -> list[Job]:
    """In the order in which they are begun: the long ones first."""
    seed, kills = options.seed, -(-options.kills // HALVES)
    whole, small = material.make(root / "whole"), material.make(root / "small", material.SMALL)
    with Zygote(root / "log-truth") as zygote:
        right = truth(zygote, whole, root)
        few = truth(zygote, small, root, kinds=(Kind.ALL,)).state
    jobs: dict[str, Job] = {}
    for half in range(HALVES):
        own = seed * HALVES + half
        jobs[f"kill {half}"] = lambda z, s=own: lives(killed, z, whole, root, right, seed=s, count=kills)
        jobs[f"signal {half}"] = lambda z, s=own: lives(stopped, z, whole, root, right, seed=s, count=kills // 4)
        jobs[f"error {half}"] = lambda z, n=half: errors(z, small, root, part=n, parts=HALVES)
    jobs["readers"] = lambda z: neighbours.readers(z, whole, root, right, seed=seed)
    jobs["writers"] = lambda z: neighbours.writers(z, whole, root, seed=seed, rounds=8)
    jobs["command"] = lambda z: same_as_the_command(z, small, root)
    jobs["shards"] = lambda z: disk.shards_change(z, whole, root)
    jobs["full"] = lambda z: disk.full(z, small, root, few, seed=seed, count=40)
    jobs["tmpfs"] = lambda z: disk.small_disk(z, small, root, few, seed=seed, count=4)
    jobs["forbidden"] = lambda z: disk.forbidden(z, small, root, few)
    return [job for name, job in jobs.items() if options.only in name]


def _run(jobs: list[Job], root: Path) -> list[Tally]:
    own = threading.local()
    zygotes: list[Zygote] = []

    def one(job: Job) -> Tally:
        if not hasattr(own, "zygote"):
            own.zygote = Zygote(root / f"log-{threading.get_ident()}").__enter__()
            zygotes.append(own.zygote)
        try:
            return job(own.zygote)
        except Exception:  # noqa: BLE001 - the other scenarios go on, and this one is named
            failed = Tally("a scenario broke off")
            failed.blame(traceback.format_exc())
            return failed

    try:
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            return list(pool.map(one, jobs))
    finally:
        for zygote in zygotes:
            zygote.__exit__()


if __name__ == "__main__":
    raise SystemExit(main())
