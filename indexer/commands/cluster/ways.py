"""The ways in which `indexer index` spreads its work: this process alone, or one of several parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

from indexer.commands.cluster.commit import commit_text
from indexer.errors import StoreLocked
from indexer.options import counted, emit, say

if TYPE_CHECKING:
    from indexer.pipeline.parts.commit import CommitReport
    from indexer.types import RunReport

CREATED_SECONDS = 60.0  # for another part to create the table
LOOK_SECONDS = 0.2
Made = TypeVar("Made")


def part_options(command: Any) -> Any:
    """The options --part and --no-commit."""
    for option in (
        click.option("--no-commit", is_flag=True, help="With --part: leave the rows to `indexer commit DB`."),
        click.option(
            "--part",
            metavar="I/N",
            help="Do the I-th of N parts, counted from 0, as in --part $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT "
            "or --part $JOB_COMPLETION_INDEX/16. Start each part by itself, on any machine that reaches SHARDS and DB.",
        ),
    ):
        command = option(command)
    return command


def require_fitting(*, part: str | None, no_commit: bool, gone: str) -> None:
    """Raises click.UsageError for options that do not go together."""
    if no_commit and part is None:
        raise click.UsageError("--no-commit is about parts: give it with --part I/N")
    if part is not None and gone == "drop":
        raise click.UsageError("--gone drop is about the whole archive: run it by itself, without --part")


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


def print_part(
    report: RunReport, committed: CommitReport | None, text: Callable[[RunReport], str], *, as_json: bool
) -> None:
    """Print what a part did, and what its commit added to the table."""
    if as_json:
        emit(asdict(report) | {"committed": asdict(committed) if committed else None}, as_json=True)
    else:
        lines = [f"part {report.part}", text(report)]
        if committed is not None:
            lines.append(commit_text(committed))
        if report.pending:
            lines.append(f"{counted(report.pending, 'shard')} of this part wait beside the table for `indexer commit`")
        say("\n".join(lines))
    if report.interrupted:
        say("stopped; finished shards are kept. Run the same part again, or `indexer commit DB`.", err=True)
