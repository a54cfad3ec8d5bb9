"""The power goes in the middle of a table's life: what was promised stays, a rerun completes the rest.

All states of the recorded life are tried by `make test-faults`; here is a seeded selection.
"""

from __future__ import annotations

import random

import pytest

from indexer.store.writing import compaction
from tests.power.disk import ALL, lay_out, replayed
from tests.power.life import STEPS, hasten, state
from tests.power.replay import PROMISES, crashes, recorded, troubles
from tests.power.strace import available

SEED, TRIED = 20, 40

pytestmark = pytest.mark.xdist_group("power")


@pytest.fixture(scope="module")
def life(tmp_path_factory):
    if not available():
        pytest.skip("strace is not installed, or may not trace here")
    return recorded(tmp_path_factory.mktemp("power") / "life")


def test_the_record_replayed_in_full_is_the_life_itself(life, tmp_path):
    lay_out(replayed(life.root / "work", life.ops).left(ALL), tmp_path / "work")
    assert (tmp_path / "work" / PROMISES).read_text().count("end ") == len(STEPS)
    assert state(tmp_path) == life.after["refreshed"]


def test_after_any_power_failure_what_was_done_is_there_and_a_rerun_makes_the_rest(life, monkeypatch):
    for name in ("COMPACT_FRAGMENTS", "RUN_FRAGMENTS", "CLEAN_SECONDS", "KEEP_VERSIONS"):
        monkeypatch.setattr(compaction, name, getattr(compaction, name))  # hasten() changes them
    hasten()
    states = list(crashes(life, SEED))
    assert len(states) > 1000
    for crash in sorted(random.Random(SEED).sample(states, TRIED), key=lambda crash: crash.calls):
        wrong = troubles(life, crash)
        assert not wrong, f"after call {crash.calls} ({life.ops[crash.calls - 1]}), {crash.variant}: {wrong}"
