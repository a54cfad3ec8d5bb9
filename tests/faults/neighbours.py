"""Several writers at once, and a writer with readers, searchers, an index build and a compaction beside it."""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from pathlib import Path

from tests.faults.kills import Truth, new_place
from tests.faults.life import STEPS, Place, compare, index, state, troubled
from tests.faults.material import Material
from tests.faults.runs import Zygote
from tests.faults.tally import Tally

TRIES = 40
HOLDER = re.compile(r"being written by process \d+ on \S+ since |by another process")


def writers(zygote: Zygote, material: Material, root: Path, *, seed: int, rounds: int) -> Tally:
    """Two and four indexers on one table, of the same and of different shards, until each has said "done"."""
    tally = Tally("2 and 4 writers at once")
    rng = random.Random(f"writers-{seed}")
    alone = new_place(root, "alone", material)
    zygote.run(*index(alone.material.shards, place=alone))
    for number in range(rounds):
        place = new_place(root, f"writers-{number}", material)
        shards = sorted(place.material.shards.glob("*.tar"))
        count, same = ((2, True), (4, True), (2, False), (4, False))[number % 4]
        parts = [shards] * count if same else _parts(shards, count)
        try:
            _race(zygote, place, parts, rng, tally)
        except TimeoutError as error:
            tally.hang(str(error))
        tally.judge(
            f"{count} writers of {'the same' if same else 'different'} shards", compare(state(place), state(alone))
        )
        shutil.rmtree(place.root)
    shutil.rmtree(alone.root)
    return tally


def _parts(shards: list[Path], count: int) -> list[list[Path]]:
    """Cut so that shards that share a key stay together (the first of them wins, whoever writes it)."""
    tens = [shards[i : i + 10] for i in range(0, len(shards), 10)]
    return [[shard for ten in tens[i::count] for shard in ten] or shards[:1] for i in range(count)]


def _race(zygote: Zygote, place: Place, parts: list[list[Path]], rng: random.Random, tally: Tally) -> None:
    waiting = list(range(len(parts)))
    for _ in range(TRIES):
        runs = {}
        for i in waiting:
            runs[i] = zygote.start(*index(*parts[i], place=place))
            time.sleep(rng.choice((0, 0, 0.05, 0.3)))
        for run in runs.values():
            zygote.wait(run)
        tally.runs += len(runs)
        refused = [i for i, run in runs.items() if troubled(run)]
        tally.faults += len(refused)
        for i in refused:
            if runs[i].code != 1 or not HOLDER.search(runs[i].err):
                tally.blame(f"a second writer: {runs[i].code} {runs[i].err[-800:]!r}")
        waiting = refused
        if not waiting:
            return
    tally.blame(f"after {TRIES} rounds {len(waiting)} writers had not had their turn")


def readers(zygote: Zygote, material: Material, root: Path, right: Truth, *, seed: int) -> Tally:
    """A life with others beside each of its commands."""
    tally = Tally("readers, searches, builds and compaction beside a writer")
    place = new_place(root, "readers", material)
    rng = random.Random(f"readers-{seed}")
    rows = 0
    for step in STEPS:
        step.before(place)
        writer = zygote.start(*step.argv(place))
        while writer.code is None:
            if (place.db / "t.lance" / "_versions").exists() and rows:
                rows = _look(zygote, place, step.name, rng, tally, rows)
            else:
                zygote.wait_some(writer, 0.02)
                rows = len(list(place.db.glob("t.shards.lance/_versions/*.manifest"))) > 2
        tally.runs += 1
        for _ in range(TRIES):  # a neighbour may have had the lock
            if not troubled(writer):
                break
            if not HOLDER.search(writer.err):
                tally.blame(f"{step.name} beside others: {writer.err[-800:]!r}")
            writer = zygote.run(*step.argv(place))
    if troubled(zygote.run("build-ann", place.db, "--refresh")):
        tally.blame("the last refresh failed")
    tally.judge("a life among others", compare(state(place), right.state))
    shutil.rmtree(place.root)
    return tally


def _look(zygote: Zygote, place: Place, step: str, rng: random.Random, tally: Tally, rows: int) -> int:
    """One neighbour's command; what it prints must make sense. Returns the rows it saw."""
    what = rng.choice(("info", "search", "search", "failures", "optimize", "build-ann"))
    if what == "optimize" and rng.random() < 0.5:
        what = "info"
    argv = {
        "info": ("info", place.db, "--json"),
        "search": ("search", place.db, "--key", "s1-0", "-k", 5, "--json"),
        "failures": ("failures", place.db, "--json"),
        "optimize": ("optimize", place.db, "--json"),
        "build-ann": ("build-ann", place.db, "--kind", "ivf-sq8", "--json"),
    }[what]
    run = zygote.run(*argv)
    tally.runs += 1
    tally.faults += 1
    if run.code == 1 and "Traceback" not in run.err and (HOLDER.search(run.err) or "s1-0" in run.err):
        return rows  # the writer has the lock; or the row is not there yet
    if run.code != 0:
        tally.blame(f"{what} beside {step}: {run.code} {run.err[-800:]!r}")
        return rows
    facts = json.loads(run.out)
    if what == "info":
        found = facts[0]["rows"]
        if step not in ("index again",) and found < rows:
            tally.blame(f"info beside {step} saw {found} rows after {rows}")
        return max(found, 1)
    if what == "search":
        keys = [hit["key"] for hit in _hits(facts)]
        if len(set(keys)) != len(keys):
            tally.blame(f"a search beside {step} found a key twice: {keys}")
    return rows


def _hits(facts: object) -> list[dict[str, object]]:
    """Every record with a key, however deep the result is nested."""
    if isinstance(facts, dict):
        return [facts] if "key" in facts and "score" in facts else [h for v in facts.values() for h in _hits(v)]
    return [h for v in facts for h in _hits(v)] if isinstance(facts, list) else []
