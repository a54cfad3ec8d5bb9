"""Counts of files that are not read, by reason, with a few examples of each."""

from __future__ import annotations

from collections import Counter

from indexer.archive.samples import plain_name
from indexer.user_tables.joining import EXAMPLES, counted

UNKNOWN = "neither image nor shard"


class LeftOut:
    """Counts by reason; memory grows with the number of reasons only."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, reason: str, path: str) -> None:
        self._counts[reason] += 1
        examples = self._examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(plain_name(path))

    def __bool__(self) -> bool:
        return bool(self._counts)

    def words(self) -> list[str]:
        """One phrase for each reason, the most frequent first."""
        return [f"{reason}, {counted(self._examples[reason], count)}" for reason, count in self._counts.most_common()]
