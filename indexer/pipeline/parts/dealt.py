"""Deals the shards of an archive to parts."""

from __future__ import annotations

import heapq
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from indexer.errors import InputError
from indexer.types import Shard


@dataclass(frozen=True)
class Part:
    """One of `of` parts, counted from 0."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@dataclass(frozen=True)
class PartOptions:
    """Which part, and what becomes of it."""

    part: Part
    commit: bool = True  # False: leave the rows to `indexer commit`
    wait_seconds: float = 3600.0  # for the other parts' commits


def part_of(text: str, environment: Mapping[str, str] = os.environ) -> Part:
    """The part that I/N names. Raises InputError.

    A Slurm array that does not begin at 0 (`--array=1-16`) is refused in each of its tasks: none would do part 0.
    """
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and number.isascii() and of.isascii()):
        raise InputError(
            f"--part {text or '(empty)'} is not of the form I/N, as in 0/16. Give --part "
            "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT in an array job."
        )
    part, first = Part(int(number), int(of)), environment.get("SLURM_ARRAY_TASK_MIN", "0")
    slurm = number == environment.get("SLURM_ARRAY_TASK_ID") and of == environment.get("SLURM_ARRAY_TASK_COUNT")
    if slurm and first != "0":
        raise InputError(
            f"--part {part}: this array begins at {first}, so that no task has part 0. Use --array=0-{part.of - 1}, "
            "or write the number of all parts in place of $SLURM_ARRAY_TASK_COUNT."
        )
    if part.number >= part.of:
        raise InputError(
            f"--part {part}: parts are counted from 0, so that the last of {part.of} is "
            f"{max(part.of - 1, 0)}/{part.of}. Use --array=0-{max(part.of - 1, 0)}."
        )
    return part


def dealt(shards: Sequence[Shard], part: Part) -> list[Shard]:
    """The shards of a part, in their order: the same for every process that is given the same list.

    The largest shard first, each to the part that has the fewest bytes so far (Graham 1969: no part has more than 4/3
    of what the best division gives the largest). A shard of unknown size counts as the mean of the others.
    """
    sizes = [shard.nbytes for shard in shards if shard.nbytes is not None]
    usual = max(sum(sizes) // len(sizes), 1) if sizes else 1
    order = sorted(shards, key=lambda shard: (-_nbytes(shard, usual), shard.name))
    loads = [(0, 0, number) for number in range(part.of)]  # bytes, shards, part
    own: set[str] = set()
    for shard in order:
        nbytes, count, number = heapq.heappop(loads)
        heapq.heappush(loads, (nbytes + _nbytes(shard, usual), count + 1, number))
        if number == part.number:
            own.add(shard.name)
    return [shard for shard in shards if shard.name in own]


def _nbytes(shard: Shard, usual: int) -> int:
    return usual if shard.nbytes is None else shard.nbytes
