"""The ways in which `indexer index` spreads its work: this process alone, one of several parts, or a Ray cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from indexer.commands.cluster.commit import commit_text
from indexer.commands.index_report import report_text
from indexer.errors import StoreLocked
from indexer.options import FiniteRange, counted, emit, say

if TYPE_CHECKING:
    from indexer.encoders.encoder import LoadedEncoder
    from indexer.pipeline.engines.engine import Engine
    from indexer.pipeline.engines.ray_cluster import ClusterOptions
    from indexer.pipeline.options import RunOptions
    from indexer.pipeline.parts.commit import CommitReport
    from indexer.pipeline.parts.dealt import PartOptions
    from indexer.types import PixelSpec, RunReport, UInt8

CREATED_SECONDS = 60.0  # for another part to create the table
LOOK_SECONDS = 0.2
Made = TypeVar("Made")


@dataclass(frozen=True)
class Ways:
    """What was asked for: at most one of the two."""

    part: PartOptions | None
    ray: ClusterOptions | None


def way_options(command: Any) -> Any:
    """The options --part, --no-commit, --engine, --address and --gpus-per-worker."""
    for option in (
        click.option(
            "--gpus-per-worker", "gpus", type=FiniteRange(0), default=0.0, metavar="G",
            help="GPUs of each actor of --engine ray, 0.5 for two on one.",
        ),
        click.option(
            "--address", default="", metavar="ADDR",
            help="Head of an existing Ray cluster. Default: RAY_ADDRESS, or a cluster of this machine alone.",
        ),
        click.option(
            "--engine", "engine_name", type=click.Choice(["threads", "ray"]), default="threads", show_default=True,
            help="Who embeds: threads of this process, or actors of a Ray cluster (extra ray), for which this process "
            "commits. Every node must reach SHARDS under the same names.",
        ),
        click.option("--no-commit", is_flag=True, help="With --part: leave the rows to `indexer commit DB`."),
        click.option(
            "--part", metavar="I/N",
            help="Do the I-th of N parts, counted from 0, as in --part $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT "
            "or --part $JOB_COMPLETION_INDEX/16. Start each part by itself, on any machine that reaches SHARDS and DB.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def require_fitting(
    *,
    part: str | None,
    no_commit: bool,
    gone: str,
    engine: str,
    address: str,
    gpus: float,
    precision: str,
    processes: int | None,
) -> None:
    """Raises click.UsageError for options that do not go together."""
    if no_commit and part is None:
        raise click.UsageError("--no-commit is about parts: give it with --part I/N")
    if part is not None and gone == "drop":
        raise click.UsageError("--gone drop is about the whole archive: run it by itself, without --part")
    if part is not None and engine == "ray":
        raise click.UsageError("--part and --engine ray are two ways to spread the work: choose one")
    if processes is not None and engine == "ray":
        raise click.UsageError("--processes decode for one encoder of this machine: give it without --engine ray")
    if precision == "int8" and engine == "ray":
        raise click.UsageError("--precision int8 keeps its network beside the table: give it without --engine ray")
    if engine != "ray" and (address or gpus):
        raise click.UsageError("--address and --gpus-per-worker are of a Ray cluster: give them with --engine ray")


def ways_of(part: str | None, *, no_commit: bool, ray: bool, address: str, gpus: float) -> Ways:
    """Raises InputError for a part that there is not."""
    from indexer.pipeline.engines.ray_cluster import ClusterOptions
    from indexer.pipeline.parts.dealt import PartOptions, part_of

    return Ways(
        PartOptions(part_of(part), not no_commit) if part is not None else None,
        ClusterOptions(address, gpus=gpus) if ray else None,
    )


@dataclass(frozen=True)
class Slices:
    """The choices of `indexer index` for volumes."""

    plane: str
    channels: int

    def of(self, pixels: PixelSpec) -> PixelSpec:
        return replace(pixels, plane=self.plane, channels=self.channels)


def made_encoder(slices: Slices, name: str, **options: Any) -> LoadedEncoder:
    """The encoder of a run; called in each actor too."""
    from indexer.encoders import load

    encoder = load(name, **options)
    return encoder.with_pixels(slices.of(encoder.spec.pixels))


@contextmanager
def engine_of(ways: Ways, make: Callable[[], LoadedEncoder], options: RunOptions) -> Iterator[Engine]:
    """The engine that was asked for, with its encoder loaded."""
    if ways.ray is None:
        from indexer.pipeline.run import engine_for

        yield engine_for(make(), options)
        return
    from indexer.pipeline.engines.ray_actors import RayActors
    from indexer.pipeline.engines.ray_cluster import connected
    from indexer.pipeline.engines.ray_worker import WorkerOptions

    # on CPUs an actor takes one core, as Ray counts it
    worker = WorkerOptions(make, None if ways.ray.gpus else 1, options.frames, options.commit_rows, options.time)
    with connected(replace(ways.ray, workers=options.workers), worker) as cluster:
        yield RayActors(cluster)


def checked(engine: Engine) -> Callable[[UInt8], float] | None:
    """The check of reduced precision on a sample, where this process has the encoder."""
    from indexer.encoders import precision_check
    from indexer.pipeline.engines.processes import Processes
    from indexer.pipeline.engines.threads import Threads

    exact = engine.spec.precision == "fp32" and engine.spec.backend == "torch"
    if exact or not isinstance(engine, (Threads, Processes)):
        return None
    encoder: Any = engine.encoder
    return lambda pictures: precision_check(encoder, pictures)


def once_free(create: Callable[[], Made], *, part: bool) -> Made:
    """What `create` makes; for a part, once no other part is creating the table. Raises StoreLocked."""
    until = time.monotonic() + (CREATED_SECONDS if part else 0)
    while True:
        try:
            return create()
        except StoreLocked:
            if time.monotonic() > until:
                raise
            time.sleep(LOOK_SECONDS)


def print_part(report: RunReport, committed: CommitReport | None, *, as_json: bool) -> None:
    """Print what a part did, and what its commit added to the table."""
    if as_json:
        emit(asdict(report) | {"committed": asdict(committed) if committed else None}, as_json=True)
    else:
        lines = [f"part {report.part}", report_text(report)]
        if committed is not None:
            lines.append(commit_text(committed))
        if report.pending:
            lines.append(f"{counted(report.pending, 'shard')} of this part wait beside the table for `indexer commit`")
        say("\n".join(lines))
    if report.interrupted:
        say("stopped; finished shards are kept. Run the same part again, or `indexer commit DB`.", err=True)
