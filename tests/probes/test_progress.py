"""What a probe reports while it runs: stages, and how much of each is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from probes.progress import Stages
from probes.request import ProbeRequest
from probes.runs.run import run
from tests.probes.cohort import make_cohort


class Recorder(Stages):
    """Stages in order, each with its total and the steps that were reported."""

    def __init__(self) -> None:
        super().__init__(shown=False)
        self.seen: list[list[object]] = []

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[None]:
        self.seen.append([name, total, 0])
        with super().stage(name, total):
            yield

    def advance(self, n: int = 1, **counts: int) -> None:
        self.seen[-1][2] += n
        super().advance(n, **counts)


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_stages_with_a_length_are_reported_to_their_end(tmp_path, kind):
    db, recorder = make_cohort(tmp_path, patients=150), Recorder()
    request = ProbeRequest(db, kind, ("finding",), group="patient", replicates=20, shuffle_control=kind == "linear")
    result = run(request, recorder).result
    test, val = (result.split.parts[part].rows for part in ("test", "val"))
    seen = {name: (total, done) for name, total, done in recorder.seen}
    assert seen["near-duplicate audit"] == (test, test)
    if kind == "knn":
        assert seen["choosing k"] == (val, val)
        assert seen["neighbours of the test rows"] == (test, test)
    else:
        assert seen["shuffled control"] == (20, 20)
        assert seen["choosing the penalty"] == (12, len(result.selection.candidates))
    assert list(result.seconds) == [name for name, _, _ in recorder.seen][: len(result.seconds)]
