"""From a recorded life to the states a power failure may leave, and what our code makes of each."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from indexer.errors import IndexerError
from indexer.search.searcher import Searcher
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from tests.power.disk import ALL, LENGTHS, NAMES, NONE, Disk, lay_out, some
from tests.power.life import CHANGED, STEPS, TOUCHES, do, of_shards, state
from tests.power.strace import Op, record

DRAWS = 2  # random states a call
PROMISES = "promises"


@dataclass(frozen=True)
class Crash:
    """The power went after `calls` calls; `left` is what stood on the disk."""

    calls: int
    variant: str
    left: dict[str, bytes | str | None]
    promises: tuple[str, ...]


@dataclass(frozen=True)
class Recorded:
    """An undisturbed life."""

    root: Path
    ops: list[Op]
    after: dict[str, dict[str, list[str]]]  # step → state


def recorded(root: Path) -> Recorded:
    (root / "work").mkdir(parents=True)
    ops = record([sys.executable, "-m", "tests.power.life", str(root)], root / "work", root / "strace.log")
    after = {step: state(root / "after" / step) for step in STEPS}
    return Recorded(root, ops, after)


def crashes(life: Recorded, seed: int) -> Iterator[Crash]:
    """Every different state that the model allows after each call, in order."""
    disk, seen = Disk(life.root / "work"), set[bytes]()
    for calls, op in enumerate(life.ops, 1):
        disk.apply(op)
        promises = disk.left(ALL).pop(PROMISES, b"")
        assert isinstance(promises, bytes)
        draws = [some(f"{seed}-{calls}-{draw}") for draw in range(DRAWS)]
        for variant in (ALL, NONE, NAMES, LENGTHS, *draws):
            left = disk.left(variant)
            left.pop(PROMISES, None)
            known = hashlib.sha256(repr((sorted(left.items(), key=lambda item: item[0]), promises)).encode()).digest()
            if known not in seen:
                seen.add(known)
                yield Crash(calls, variant.name, left, tuple(promises.decode().splitlines()))


def troubles(life: Recorded, crash: Crash) -> list[str]:
    """What is wrong after the power came back: read, mended, and run to the end of the step that was under way."""
    if not crash.promises:
        return []
    work = life.root / "work"
    shutil.rmtree(work)
    lay_out(crash.left, work)
    step, former = _step(crash)
    wrong = _read(work)
    wrong += _broken_promises(life, crash, step, former) if former or _done(crash) else []
    do(step, life.root)
    found, right = state(life.root), life.after[step]
    wrong += [
        f"{kind} differs after the rerun: {_difference(found[kind], right[kind])}"
        for kind in right
        if found[kind] != right[kind]
    ]
    return wrong


def _step(crash: Crash) -> tuple[str, str | None]:
    """The step that was begun last, and the one that ended before it."""
    steps = list(STEPS)
    step = [line.removeprefix("begin ") for line in crash.promises if line.startswith("begin ")][-1]
    return step, steps[steps.index(step) - 1] if step != steps[0] else None


def _done(crash: Crash) -> list[str]:
    """The shards whose word was given in the step under way."""
    lines = crash.promises[max(i for i, line in enumerate(crash.promises) if line.startswith("begin ")) :]
    told = [json.loads(line.removeprefix("shards ")) for line in lines if line.startswith("shards ")]
    return list(told[-1]) if told else []


def _read(work: Path) -> list[str]:
    """A reader before any repair gets an answer or an error of ours."""
    try:
        store = EmbeddingStore.open(str(work / "db"), "t")
        store.vectors(columns=["key"])
        store.ledger()
        Searcher(store)
    except IndexerError:
        return []
    except BaseException as error:  # noqa: BLE001 - Lance's panics are no Exception
        return [f"a reader met {type(error).__name__}: {error}"]
    return []


def _broken_promises(life: Recorded, crash: Crash, step: str, former: str | None) -> list[str]:
    """What was done before must be there once the table is mended, before anything is run again."""
    with StoreWriter(EmbeddingStore.create(str(life.root / "work" / "db"), "t", _spec())):
        pass
    found = state(life.root)
    wrong = []
    if former is not None:
        before = life.after[former]
        wrong += [
            f"{kind} of {former} is not there"
            for kind in before
            if kind not in TOUCHES[step] and found[kind] != before[kind]
        ]
        if "rows" in TOUCHES[step] and not step.startswith("labels"):
            stay = [name for name in "abcd" if step != "changed" or name not in CHANGED]
            lost = of_shards(before["rows"], stay) - of_shards(found["rows"], stay)
            wrong += [f"{len(lost)} rows of {former} are not there"] if lost else []
    if crash.promises[-1] == f"end {step}":
        after = life.after[step]
        return wrong + [f"{kind} of {step} is not there" for kind in after if found[kind] != after[kind]]
    for kind in ("rows", "shards") if _done(crash) else ():
        if of_shards(life.after[step][kind], _done(crash)) != of_shards(found[kind], _done(crash)):
            wrong.append(f"{kind} of {_done(crash)} are not there")
    return wrong


def _spec():
    from tests.fakes import FakeEncoder

    return FakeEncoder().spec


def _difference(found: list[str], right: list[str]) -> str:
    lacking, more = sorted(set(right) - set(found)), sorted(set(found) - set(right))
    return f"{len(found)} for {len(right)}; lacks {lacking[:1]}; has {more[:1]}"
