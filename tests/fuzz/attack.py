"""One target's process: `python -m tests.fuzz.attack TARGET START COUNT SEED FOLDER LIBRARY`.

Prints a JSON line for every batch: how far it is, what became of the inputs, and the faults among them.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.faults.runs import Action, Kind
from tests.fuzz.targets import TARGETS, Attack
from tests.fuzz.verdict import Wrong

HANG_SECONDS = 5.0  # of CPU for one input: others share the machine, and a decoder of its own process has its own limit


def main() -> int:
    name, start, count, seed, folder = sys.argv[1], *map(int, sys.argv[2:5]), Path(sys.argv[5])
    target = TARGETS[name]
    numbered = itertools.islice(enumerate(target.inputs(count, seed)), start, None)
    inside = folder / "inside"
    inside.mkdir()
    os.chdir(inside)
    attack = target.prepare(inside)
    attack([next(iter(target.inputs(1, seed)))])  # libraries are loaded, and the clock is for the inputs alone
    outside = _confined(folder, Path(sys.argv[6]))
    while batch := list(itertools.islice(numbered, target.batch)):
        (folder / "current").write_bytes(b"%d\n" % batch[-1][0] + batch[-1][1])
        words, faults = tried(attack, batch, outside)
        facts = {"next": batch[-1][0] + 1, "inputs": len(batch), "words": words, "faults": faults}
        print(json.dumps(facts), flush=True)  # noqa: T201 - the parent reads it
    return 0


def tried(
    attack: Attack, batch: Sequence[tuple[int, bytes]], outside: Callable[[], int]
) -> tuple[Counter[str], list[dict[str, Any]]]:
    """What became of the inputs; one by one where together they were a fault."""
    before, started = outside(), time.process_time()
    kind, detail = "", ""
    words: list[str] = []
    try:
        words = attack([data for _, data in batch])
    except Wrong as error:
        kind, detail = "wrong", str(error)
    except BaseException:  # noqa: BLE001 - whatever is raised past IndexerError is what we look for
        kind, detail = "raised", traceback.format_exc()
    seconds = time.process_time() - started
    if not kind and outside() > before:
        kind, detail = "outside", f"{outside() - before} writes outside the folder"
    if not kind and seconds > HANG_SECONDS * len(batch) ** 0.5:
        kind, detail = "hung", f"{seconds:.1f} s of CPU"
    if not kind:
        return Counter(words), []
    if len(batch) == 1:
        number, data = batch[0]
        return Counter(), [{"kind": kind, "number": number, "detail": detail, "input": data.hex()}]
    half = len(batch) // 2
    words_a, faults_a = tried(attack, batch[:half], outside)
    words_b, faults_b = tried(attack, batch[half:], outside)
    if not faults_a and not faults_b:  # only together
        together = b"\0|\0".join(data for _, data in batch)
        faults_a = [{"kind": kind, "number": batch[0][0], "detail": f"together: {detail}", "input": together.hex()}]
    return words_a + words_b, faults_a + faults_b


def _confined(folder: Path, library: Path) -> Callable[[], int]:
    """From now on every write outside `folder` is refused and counted."""
    events = folder / "outside"
    os.environ["LD_PRELOAD"] = str(library)  # decoders in processes of their own inherit the filter
    loaded = ctypes.CDLL(str(library))
    refused = loaded.faults_arm(
        os.fsencode(folder), int(Kind.ALL), ctypes.c_long(0), int(Action.REFUSE_OUTSIDE), 0,
        os.fsencode(events), os.fsencode(folder / "outside-notes"),
    )  # fmt: skip
    if refused:
        raise RuntimeError("this kernel refuses a seccomp filter")
    return lambda: int.from_bytes(events.read_bytes()[:8], sys.byteorder)


if __name__ == "__main__":
    raise SystemExit(main())
