"""One process's share of the states."""

from __future__ import annotations

import random
import shutil
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.power.life import hasten
from tests.power.replay import crashes, recorded, troubles


@dataclass
class Found:
    """Of one part."""

    calls: int = 0
    states: int = 0
    variants: Counter[str] = field(default_factory=Counter)
    troubled: list[str] = field(default_factory=list)


def part(number: int, parts: int, seed: int, share: float) -> Found:
    root = Path(tempfile.mkdtemp(prefix="power-"))
    found = Found()
    try:
        life = recorded(root)
        hasten()
        found.calls = len(life.ops)
        rng = random.Random(seed)
        for turn, crash in enumerate(crashes(life, seed)):
            if rng.random() >= share or turn % parts != number:
                continue
            found.states += 1
            found.variants[crash.variant] += 1
            try:
                wrong = troubles(life, crash)
            except BaseException:  # noqa: BLE001 - the other states go on, this one is named; Rust panics are no Exception
                wrong = [traceback.format_exc()]
            if wrong:
                op = life.ops[crash.calls - 1]
                found.troubled.append(f"after call {crash.calls} ({op.kind} {op.path}), {crash.variant}: {wrong}")
    finally:
        shutil.rmtree(root)
    return found
