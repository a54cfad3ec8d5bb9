"""A short, seeded part of `make test-faults`: the real commands, killed and disturbed, lose and double nothing."""

from __future__ import annotations

import errno
import json
import random
import shutil
import signal
from pathlib import Path

import pytest

from tests.faults import disk, material, neighbours
from tests.faults.kills import killed, lives, new_place, stopped, truth
from tests.faults.life import STEPS, compare, index, state, troubled
from tests.faults.runs import Action, Arm, Kind, Zygote, scratch

pytestmark = pytest.mark.xdist_group("faults")
SEED = 5
KILLS = 10


@pytest.fixture(scope="module")
def room():
    root = scratch()
    small = material.make(root / "small", material.SMALL)
    with Zygote(root / "log") as zygote:
        yield zygote, small, root, truth(zygote, small, root, kinds=(Kind.ALL, Kind.RENAME | Kind.UNLINK))
    shutil.rmtree(root)


def clean(tally, at_least: int) -> None:
    assert tally.faults >= at_least
    assert tally.clean, "\n".join(tally.notes)


def test_killed_at_random_moments_and_run_again_the_table_is_the_undisturbed_one_bit_for_bit(room):
    zygote, small, root, right = room
    clean(lives(killed, zygote, small, root, right, seed=SEED, count=KILLS), KILLS)


def test_sigterm_and_ctrl_c_end_a_run_within_5_seconds_of_work_and_undo_nothing(room):
    zygote, small, root, right = room
    clean(lives(stopped, zygote, small, root, right, seed=SEED, count=3), 3)


def test_shards_that_go_change_or_grow_are_named_and_read_when_they_are_whole(room):
    zygote, small, root, _ = room
    clean(disk.shards_change(zygote, small, root), 3)


def test_two_writers_at_once_exclude_each_other_by_name_and_lose_and_double_nothing(room):
    zygote, small, root, _ = room
    tally = neighbours.writers(zygote, small, root, seed=SEED, rounds=1)
    assert tally.clean, "\n".join(tally.notes)
    assert tally.runs >= 2


def test_an_error_at_any_step_is_one_line_and_a_rerun_mends_it(room):
    zygote, small, root, right = room
    rng = random.Random(SEED)
    place = new_place(root, "errors", small)
    for step in STEPS:
        step.before(place)
        action, error = rng.choice(((Action.FAIL_ONCE, errno.EIO), (Action.FAIL_ON, errno.ENOSPC)))
        at = rng.randint(1, right.calls[step.name, Kind.ALL.value])
        run = zygote.run(*step.argv(place), arm=Arm(place.work, Kind.ALL, at, action, error))
        assert run.code in (0, 1)
        assert "Traceback" not in run.err, (run.where, run.err)
        assert not troubled(again := zygote.run(*step.argv(place))), again.err
    verdict = compare(state(place), right.state)
    assert verdict, str(verdict)


def test_the_comparison_sees_a_lost_a_doubled_and_an_altered_row(room):
    """The harness itself: what it would miss, nobody would see."""
    zygote, small, root, _ = room
    import lance

    place = new_place(root, "seen", small)
    zygote.run(*index(place.material.shards, place=place))
    whole = state(place)
    table = lance.dataset(str(place.db / "t.lance"))
    first, second = (next(iter(table.to_batches(columns=["key"])))["key"][i].as_py() for i in (0, 1))
    lance.write_dataset(table.to_table(filter=f"key = '{first}'"), table, mode="append")
    table.delete(f"key = '{second}'")
    table.update({"norm": "norm * 2"}, where="key = 's5-1'")
    verdict = compare(state(place), whole)
    assert verdict.doubled == [f"row {first}"]
    assert verdict.lost == [f"row {second}"]
    assert [words.split(":")[0] for words in verdict.altered] == ["row s5-1"]


def test_the_kills_strike_inside_the_calls_that_change_files(room):
    zygote, small, root, _ = room
    place = new_place(root, "inside", small)
    argv = index(place.material.shards, place=place)
    for action, there in ((Action.KILL_BEFORE, False), (Action.KILL_AFTER, True)):
        run = zygote.run(*argv, arm=Arm(place.work, Kind.RENAME, 1, action))
        assert run.code == -signal.SIGKILL
        number, kind, target = run.where.split(" ")
        assert (number, kind) == ("1", "rename")
        assert Path(f"{place.work}{target}").exists() is there
    done = zygote.run(*argv, "--json", arm=Arm(place.work))
    assert json.loads(done.out)["images"] > 20
    assert done.events > 100
