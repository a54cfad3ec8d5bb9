"""What a Ray cluster adds and costs: `python -m benchmarks.cluster [--json]`.

- `driver_rows_per_second`: rows that one driver takes from its actors and commits. Stand-in actors answer at once with
  pickled parts, each unpickled when it is fetched, as Ray does; their own time is taken off. Beside it, rows in a
  second of the driver's CPU (all threads), which other load on the machine does not lower.
- `in_flight_bytes`: the most that the stand-ins' answers held at once, and its bound, a part for each actor.
- `efficiency_2_workers_over_1`: images a second of two workers of one core each, over twice those of one, with the
  bundled encoder on photographs' sizes. Each is measured from the first answers of all workers on, over WINDOW_SECONDS:
  their start is left out. The driver and Ray itself run on the same machine's cores.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle  # our own parts
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.provenance import RESULTS, write
from benchmarks.synthetic import shards as synthetic_shards
from indexer.archive.shards import find_shards
from indexer.commands.cluster.ways import Slices, made_encoder
from indexer.pipeline.drive import Hooks
from indexer.pipeline.engines.ray_actors import RayActors
from indexer.pipeline.engines.ray_cluster import Cluster, ClusterOptions, connected
from indexer.pipeline.engines.ray_worker import Introduced, Step, WorkerOptions
from indexer.pipeline.options import RunOptions
from indexer.pipeline.run import index_by
from indexer.pipeline.tally import Tally
from indexer.progress.silent import Silent
from indexer.store.table import EmbeddingStore
from indexer.types import EmbeddingBatch, EmbeddingRow, EncoderSpec, PixelSpec, Place, Shard, ShardResult

ROWS_GOAL, DIM, PART_ROWS, STAND_INS = 50_000, 512, 8192, 16
WINDOW_SECONDS, ANSWER_ROWS, IMAGES = 60.0, 32, 5_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the tables are made; default: a temporary one")
    parser.add_argument("--driver-alone", action="store_true", help="without the workers' efficiency, and without Ray")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result: dict[str, Any] = {"load_average": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        driver(Path(folder) / "first", PART_ROWS)  # which imports what a run needs
        result |= driver(Path(folder) / "driver", args.rows)
        if not args.driver_alone:
            result |= efficiency(Path(folder))
    out = RESULTS / "cluster.json"
    if args.driver_alone and out.exists():  # the workers' figures stay those of the run before
        result = json.loads(out.read_text()) | result
    result = write(out, result)
    print(json.dumps(result) if args.json else "\n".join(f"{name}: {value}" for name, value in result.items()))
    bounded = result["in_flight_bytes"] <= result["in_flight_bound"]
    return 0 if bounded and result["driver_rows_per_second"] >= ROWS_GOAL else 1


SPEC = EncoderSpec(
    name="stand-in", weights="random:0", pooling="pooled", dim=DIM, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
    precision="fp32", pixels=PixelSpec(224, 224),
)  # fmt: skip


class Answer:
    """A pickled answer, as it lies in Ray's object store."""

    def __init__(self, value: object) -> None:
        self.data = pickle.dumps(value, protocol=5)


class StandIn:
    """An actor that has its parts ready."""

    class Method:
        def __init__(self, call: Any) -> None:
            self.remote = lambda *words: Answer(call(*words))

    def __init__(self, cluster: StandIns) -> None:
        self.introduce = self.Method(lambda: Introduced(SPEC, "cpu", 1))
        self.begin = self.Method(lambda planned, _before: Step(cluster.part(planned.shard), Tally(DIM).facts()))
        self.step = self.Method(lambda: Step(None))


class StandIns(Cluster):
    """A cluster without Ray."""

    def __init__(self) -> None:
        self.workers, self.most = STAND_INS, 0
        rng = np.random.default_rng(0)
        raw = rng.standard_normal((PART_ROWS, DIM)).astype(np.float32)
        self._norms = np.linalg.norm(raw, axis=1)
        self._vectors = (raw / self._norms[:, None]).astype(np.float16)
        self.part_bytes = len(Answer(self.part(Shard("s", "0", "1"))).data)

    def part(self, shard: Shard) -> ShardResult:
        """A whole shard's result: PART_ROWS rows with three fields of metadata."""
        number = int(shard.name)
        rows = tuple(
            EmbeddingRow(
                f"{number:06d}/{i:06d}", Place(shard.name, f"{i:06d}.jpg", 512 + 4096 * i, 4000, "jpg"),
                f"{number:032x}{i:032x}", {"patient": f"p{i // 4}", "age": i % 90, "sex": "FM"[i % 2]},
            )
            for i in range(PART_ROWS)
        )  # fmt: skip
        return ShardResult(shard, (EmbeddingBatch(rows, self._vectors, self._norms),), (), PART_ROWS)

    def actor(self) -> StandIn:
        return StandIn(self)

    def kill(self, actor: object) -> None:
        """Nothing runs."""

    def ready(self, answers: Any, seconds: float) -> set[Any]:  # noqa: ARG002 - as Cluster's
        self.most = max(self.most, sum(len(answer.data) for answer in answers))
        return set(answers)

    def answer(self, answer: Answer) -> Any:
        return pickle.loads(answer.data)  # noqa: S301 - made above


def driver(database: Path, rows: int) -> dict[str, Any]:
    """The driver's own pace: the stand-ins' pickling, which is the workers' time, is taken off."""
    count = max(1, rows // PART_ROWS)
    cluster = StandIns()
    spent = [0.0, 0.0]  # of the stand-ins: seconds, and of CPU

    def of_stand_ins(call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*words: Any) -> Any:
            start, cpu = time.perf_counter(), time.process_time()
            made = call(*words)
            spent[0] += time.perf_counter() - start
            spent[1] += time.process_time() - cpu
            return made

        return timed

    real = Answer.__init__
    Answer.__init__, cluster.part = of_stand_ins(real), of_stand_ins(cluster.part)  # type: ignore[method-assign]
    store = EmbeddingStore.create(str(database), "t", SPEC)
    plan = [Shard(f"/s/{i}", str(i), "1") for i in range(count)]
    engine = RayActors(cluster)
    start, cpu = time.perf_counter(), time.process_time()
    spent[:] = 0.0, 0.0
    report = index_by(engine, plan, store, RunOptions(), Hooks())
    seconds, cpu_seconds = time.perf_counter() - start - spent[0], time.process_time() - cpu - spent[1]
    Answer.__init__ = real  # type: ignore[method-assign]
    store.refresh()
    assert report.embedded == store.count() == count * PART_ROWS
    return {
        "driver_rows": report.embedded,
        "driver_rows_per_second": round(report.embedded / seconds),
        "driver_rows_per_cpu_second": round(report.embedded / cpu_seconds),
        "in_flight_bytes": cluster.most,
        "in_flight_bound": STAND_INS * round(1.1 * cluster.part_bytes),
    }


@dataclass
class Watch(Silent):
    """The moments at which images came in while all workers were at work; ends the run after the window."""

    workers: int
    stop: Callable[[], object] = lambda: None
    moments: list[tuple[float, int]] = field(default_factory=list)  # seconds, images

    def advance(self, n: int = 1, **counts: int) -> None:  # noqa: ARG002 - the protocol's
        enough = counts["images"] >= 2 * self.workers * ANSWER_ROWS  # each has begun and answered
        if counts["workers"] == self.workers and enough:
            if not self.moments or counts["images"] > self.moments[-1][1]:
                self.moments.append((time.perf_counter(), counts["images"]))
            if time.perf_counter() - self.moments[0][0] > WINDOW_SECONDS:
                self.stop()

    @property
    def rate(self) -> float:
        (start, first), (end, last) = self.moments[0], self.moments[-1]
        return (last - first) / (end - start)


def efficiency(folder: Path) -> dict[str, Any]:
    """Images a second of one and of two workers."""
    synthetic_shards(folder / "shards", IMAGES)
    plan = find_shards([str(folder / "shards")]).shards
    make = partial(made_encoder, Slices("axial", 1), "efficientnet-lite0", device="cpu")
    rates: dict[int, float] = {}
    for workers in (1, 2):
        with connected(ClusterOptions(workers=workers), WorkerOptions(make, 1, "all", ANSWER_ROWS)) as cluster:
            engine, watch = RayActors(cluster), Watch(workers)
            watch.stop = engine.stop.set
            store = EmbeddingStore.create(str(folder / f"workers-{workers}"), "t", engine.spec)
            index_by(engine, plan, store, RunOptions(), Hooks(watch))
            rates[workers] = watch.rate
    return {
        "images_per_second_1_worker": round(rates[1], 2),
        "images_per_second_2_workers": round(rates[2], 2),
        "efficiency_2_workers_over_1": round(rates[2] / (2 * rates[1]), 3),
    }


if __name__ == "__main__":
    raise SystemExit(main())
