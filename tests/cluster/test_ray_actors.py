"""Which actor of a Ray cluster does what, with actors that answer as a test tells them; no Ray is started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from indexer.errors import EncoderError
from indexer.pipeline.engines.ray_actors import RayActors
from indexer.pipeline.engines.ray_cluster import Died
from indexer.pipeline.engines.ray_worker import Introduced, Step
from indexer.pipeline.in_flight import Before, Planned
from indexer.types import Shard, ShardResult
from tests.fakes import FakeEncoder

SPEC = FakeEncoder().spec


@dataclass(eq=False)
class Answer:
    """What an actor will answer; `there` is asked at each look."""

    content: Any
    there: Callable[[], bool] = lambda: True


@dataclass
class FakeCluster:
    """Two workers: each new actor introduces itself as the next of `introductions` says, and begins as `begin` says."""

    introductions: list[Callable[[], bool]]
    begin: Callable[[int, Planned], Answer]
    workers: int = 2
    asked: list[tuple[int, str]] = field(default_factory=list)  # actor's number, shard's name
    done: list[str] = field(default_factory=list)
    actors: int = 0
    asked_for_room: int = 0

    def actor(self) -> Any:
        number, self.actors = self.actors, self.actors + 1

        def begin(planned: Planned, before: Before) -> Answer:
            self.asked.append((number, planned.shard.name))
            return self.begin(number, planned)

        introduced = Answer(Introduced(SPEC, "cpu", 1), self.introductions[number])
        calls = {"introduce": lambda: introduced, "begin": begin}
        return SimpleNamespace(**{name: SimpleNamespace(remote=call) for name, call in calls.items()})

    def kill(self, actor: Any) -> None:
        pass

    def ready(self, answers: Sequence[Answer], _: float) -> set[Answer]:
        return {answer for answer in answers if answer.there()}

    def answer(self, answer: Answer) -> Any:
        if isinstance(answer.content, Step) and answer.content.result is not None:
            self.done.append(answer.content.result.shard.name)
        return answer.content

    def require_room(self, _: float) -> None:
        self.asked_for_room += 1
        if self.asked_for_room > 100:
            raise EncoderError("the cluster has started no worker")


def done(planned: Planned, there: Callable[[], bool] = lambda: True) -> Answer:
    return Answer(Step(ShardResult(planned.shard, (), (), 0)), there)


def finished(cluster: FakeCluster, names: Sequence[str]) -> list[str]:
    engine = RayActors(cluster)
    found = []
    plan = [Planned(Shard(name, name, "1")) for name in names]
    for looks, result in enumerate(engine.results(plan, lambda _: Before())):
        assert looks < 1000, "it hangs"
        found += [] if result is None else [result.shard.name]
    return found


def at_once() -> bool:
    return True


def never() -> bool:
    return False


def test_the_shard_of_an_actor_that_died_goes_to_one_that_has_nothing_to_do() -> None:
    def begin(number: int, planned: Planned) -> Answer:
        if number == 1:
            return Answer(Died("its node is lost"), lambda: cluster.done == ["a"])
        return done(planned, lambda: (1, "b") in cluster.asked)

    cluster = FakeCluster([at_once, at_once, never], begin)
    assert sorted(finished(cluster, ["a", "b"])) == ["a", "b"]
    assert cluster.asked == [(0, "a"), (1, "b"), (0, "b")]


def test_a_run_whose_actors_all_died_ends_where_no_other_starts() -> None:
    def begin(number: int, planned: Planned) -> Answer:
        return Answer(Died("its node is lost"))

    with pytest.raises(EncoderError, match="has started no worker"):
        finished(FakeCluster([at_once, never, never], begin), ["a", "b"])


def test_actors_that_wait_for_room_do_not_end_a_run_that_goes_on() -> None:
    cluster = FakeCluster([at_once, never], lambda _, planned: done(planned))
    assert finished(cluster, [str(i) for i in range(200)]) == [str(i) for i in range(200)]
