"""What the fuzzer found, again; and a short seeded run of each target. All of it is `make fuzz`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.attack import tried
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
FOUND = sorted(path for path in CORPUS.iterdir())
SHORT = 40
SEED = 11


@pytest.fixture
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.case("X6")
@pytest.mark.parametrize("name", TARGETS)
def test_inputs_that_once_were_a_fault_are_answers_now(name, inside):
    attack = TARGETS[name].prepare(inside)
    attack([next(iter(TARGETS[name].inputs(1, SEED)))])  # libraries are loaded, and the clock is for the inputs alone
    for path in FOUND:
        if path.name.startswith(f"{name}-"):
            _, faults = tried(attack, [(0, path.read_bytes())], lambda: 0)
            assert faults == [], (path.name, faults[0]["detail"])


@pytest.mark.parametrize("name", TARGETS)
def test_a_short_seeded_run_meets_no_fault(name, inside):
    target = TARGETS[name]
    attack = target.prepare(inside)
    numbered = list(enumerate(target.inputs(SHORT, SEED)))
    attack([numbered[0][1]])
    for start in range(0, SHORT, target.batch):
        _, faults = tried(attack, numbered[start : start + target.batch], lambda: 0)
        assert faults == [], faults[0]["detail"]


def test_the_corpus_holds_what_was_found_by_target():
    assert {path.name.split("-")[0] for path in FOUND} <= set(TARGETS)
    assert len(FOUND) >= 10
