"""An error at every fsync, rename and unlink of every command in turn: one clear message, and a rerun mends it."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from tests.faults.kills import new_place
from tests.faults.life import STEPS, Place, Step, compare, state, troubled
from tests.faults.material import Material
from tests.faults.runs import Action, Arm, Kind, Zygote
from tests.faults.tally import Tally

ONE_COMMIT = 8192  # rows: each kind of call once or twice, not once a shard


def errors(zygote: Zygote, material: Material, root: Path, *, part: int = 0, parts: int = 1) -> Tally:
    """EIO at each call in turn; of all calls those with number % parts = part."""
    tally = Tally("EIO at each fsync, rename, unlink in turn")
    place = new_place(root, f"errors-{part}", material, commit_rows=ONE_COMMIT)
    for step in STEPS:
        step.before(place)
        saved = place.root / "saved"
        shutil.copytree(place.work, saved)
        undisturbed = zygote.run(*step.argv(place), arm=Arm(place.work, Kind.STEPS))
        right, after = state(place), place.root / "after"
        shutil.move(place.work, after)
        for at in range(1 + part, undisturbed.events + 1, parts):
            shutil.copytree(saved, place.work)
            try:
                _one(zygote, place, step, at, tally)
            except TimeoutError as error:
                tally.hang(f"{step.name}: {error}")
            tally.judge(f"{step.name}, EIO at call {at}", compare(state(place), right))
            shutil.rmtree(place.work)
        shutil.move(after, place.work)
        shutil.rmtree(saved)
    shutil.rmtree(place.root)
    return tally


def _one(zygote: Zygote, place: Place, step: Step, at: int, tally: Tally) -> None:
    run = zygote.run(*step.argv(place), arm=Arm(place.work, Kind.STEPS, at, Action.FAIL_ONCE, errno.EIO))
    tally.runs += 1
    if not run.where:
        return  # this time there were fewer calls
    tally.faults += 1
    tally.hit[f"{step.name}: {run.where.split(' ')[1]}"] += 1
    if not told(run.code, run.err):
        tally.blame(f"{step.name}, EIO at {run.where}: exit code {run.code}, {run.err[-600:]!r}")
    if troubled(run):
        again = zygote.run(*step.argv(place))
        tally.runs += 1
        if troubled(again):
            tally.blame(f"{step.name} after EIO at {run.where} cannot go on: {again.err[-600:]!r}")


def told(code: int | None, err: str) -> bool:
    """The command did its work, or said in one line of ours why not."""
    return code in (0, 1) and "Traceback" not in err and "panicked" not in err
