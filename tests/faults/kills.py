"""SIGKILL, SIGTERM and Ctrl-C at seeded moments of a table's life, each command run again until it is done."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.life import STEPS, Place, State, Step, compare, live, shards_done, state, troubled, unsound
from tests.faults.material import Material
from tests.faults.runs import Action, Arm, Kind, Run, Zygote
from tests.faults.tally import Tally

AT_RANDOM_TIMES = 0.25  # the other kills strike at a call that changes a file, where a state may be half written
STRIKES_A_STEP = 5  # then it is left alone, so that a life ends
AGAIN = 0.75  # chance that a command is met once more
STOP_SECONDS = 5.0  # of work after which a signal must have ended a run: time of the processor, whatever the load
NAMES = {"killed": "SIGKILL, rerun until done", "stopped": "SIGTERM and Ctrl-C, rerun until done"}
COUNTED = (Kind.ALL, Kind.SYNC, Kind.RENAME | Kind.UNLINK)


Met = tuple[Run, str]  # and what struck it; empty where nothing did


@dataclass(frozen=True)
class Truth:
    """The undisturbed life: what it leaves, and how long and how busy each command is."""

    state: State
    seconds: dict[str, float]
    calls: dict[tuple[str, int], int]  # by step and kinds


Meeting = Callable[[Zygote, Place, Step, Truth, random.Random, Tally], Met]


def truth(zygote: Zygote, material: Material, root: Path, kinds: Sequence[Kind] = COUNTED) -> Truth:
    """Undisturbed lives, which must already be equal."""
    zygote.keep_nothing = True  # as in `lives`
    states, seconds, calls = [], {}, {}
    for counted in kinds:
        place = new_place(root, f"undisturbed-{material.root.name}-{counted.value}", material)
        for step, run in zip(STEPS, live(zygote, place, counted), strict=True):
            seconds[step.name] = run.seconds
            calls[step.name, counted.value] = run.events
        states.append(state(place))
        if not (root / "secret").exists():
            shutil.copy(place.root / "secret", root / "secret")
        verdict = compare(states[-1], states[0])
        if not verdict:
            raise RuntimeError(f"two undisturbed lives differ: {verdict}")
    zygote.keep_nothing = False
    return Truth(states[0], seconds, calls)


def new_place(root: Path, name: str, material: Material, commit_rows: int = 1) -> Place:
    """A fresh life, with the secret of the others: the keys of packed DICOM files hang on it."""
    place = Place.make(root / name, material, commit_rows)
    if (root / "secret").exists():
        shutil.copy(root / "secret", place.root / "secret")
    return place


def lives(
    meeting: Meeting, zygote: Zygote, material: Material, root: Path, right: Truth, *, seed: int, count: int
) -> Tally:
    """Lives, one after the other, until `count` faults have struck."""
    tally = Tally(NAMES[meeting.__name__])
    # a kill inside a clean-up should find it deleting files; `stopped` reads the ledger of a running command
    zygote.keep_nothing = meeting is not stopped
    rng = random.Random(f"{meeting.__name__}-{seed}")
    number = 0
    try:
        while tally.faults < count and not tally.hung:
            number += 1
            place = new_place(root, f"{meeting.__name__}-{seed}-{number}", material)
            if _life(zygote, place, right, rng, tally, meeting):
                tally.judge(f"life {number}", compare(state(place), right.state))
            if tally.clean:
                shutil.rmtree(place.root)
    finally:
        zygote.keep_nothing = False
    return tally


def _life(zygote: Zygote, place: Place, right: Truth, rng: random.Random, tally: Tally, meeting: Meeting) -> bool:
    for step in STEPS:
        step.before(place)
        strikes = 0
        while True:
            met = strikes < STRIKES_A_STEP and rng.random() < AGAIN
            try:
                run, struck = (
                    meeting(zygote, place, step, right, rng, tally) if met else (zygote.run(*step.argv(place)), "")
                )
            except TimeoutError as error:
                tally.hang(f"{step.name}: {error}")
                return False
            tally.runs += 1
            if not struck:
                break
            strikes += 1
            tally.faults += 1
            tally.hit[f"{step.name}: {struck}"] += 1
            for words in unsound(place):
                tally.blame(f"{step.name}, struck at {run.where or 'a random time'}: {words}")
        if troubled(run):
            tally.blame(
                f"{step.name} in {place.root} cannot go on after {strikes} strikes: {run.code} {run.err[-800:]}"
            )
            return False
    return True


def undisturbed(zygote: Zygote, place: Place, step: Step, right: Truth, rng: random.Random, tally: Tally) -> Met:
    return zygote.run(*step.argv(place)), ""


def killed(zygote: Zygote, place: Place, step: Step, right: Truth, rng: random.Random, tally: Tally) -> Met:
    """SIGKILL at a random time or at the n-th call of a kind; the command may end before."""
    if rng.random() < AT_RANDOM_TIMES:
        run = zygote.start(*step.argv(place))
        if not zygote.wait_some(run, rng.uniform(0, right.seconds[step.name])):
            run.signal(signal.SIGKILL)
        zygote.wait(run)
        return run, "random time" if run.code == -signal.SIGKILL else ""
    kinds = rng.choice([kinds for name, kinds in right.calls if name == step.name])
    at = rng.randint(1, max(right.calls[step.name, kinds], 1))
    action = rng.choice((Action.KILL_BEFORE, Action.KILL_AFTER))
    run = zygote.run(*step.argv(place), arm=Arm(place.work, kinds, at, action))
    return run, run.where.split(" ")[1] if run.code == -signal.SIGKILL else ""


def stopped(
    zygote: Zygote, place: Place, step: Step, right: Truth, rng: random.Random, tally: Tally
) -> tuple[Run, str]:
    """SIGTERM or Ctrl-C at a random time: ended by 5 s of work, nothing done is undone, exit code and words are right.

    A run that waits instead of ending is caught by the time limit of `wait`.
    """
    number = rng.choice((signal.SIGTERM, signal.SIGINT))
    run = zygote.start(*step.argv(place))
    if zygote.wait_some(run, rng.uniform(0.02, right.seconds[step.name])):
        return run, ""
    before = shards_done(place)
    before_it = run.processor_seconds_so_far()
    run.signal(number)
    zygote.wait(run)
    work, name = run.processor_seconds - before_it, signal.Signals(number).name
    if before_it and work > STOP_SECONDS:
        tally.blame(f"{step.name} went on for {work:.1f} s of work after {name}")
    if step.name != "index again" and (lost := before - shards_done(place)):  # there, changed shards go on purpose
        tally.blame(f"{step.name}: {name} undid {len(lost)} shards, {sorted(lost)[0]}")
    if run.code == -number or (run.code == 130 and "stopped" in run.err):
        return run, name
    if run.code in (0, 1) and run.out and "error:" not in run.err and "Traceback" in run.err:
        return run, f"{name} after the report"  # the interpreter, taking itself down, says what it ignored
    if troubled(run):
        tally.blame(f"{step.name} after {name}: exit code {run.code}, {run.err[-500:]!r}")
        return run, name
    return run, ""  # it was done before it heard
