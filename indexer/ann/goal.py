"""Targets of an index build. Imports no heavy library: the command line takes its defaults from here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """Requirements of the index."""

    recall: float = 0.98  # share of the true 10 nearest
    latency_ms: float = 5.0  # of one query alone
    memory_bytes: int = 4 << 30  # to build in and to search with
    kind: str | None = None  # a name of ENGINES: build that one without a choice by measurement


@dataclass(frozen=True)
class GoalChange:
    """Changes of the goal for a refresh; None keeps the value that the index was built with."""

    recall: float | None = None
    latency_ms: float | None = None
    kind: str | None = None

    def of(self, goal: Goal) -> tuple[Goal, list[str]]:
        """The changed goal, and each change as text; setting the present value is not a change."""
        recall = goal.recall if self.recall is None else self.recall
        latency_ms = goal.latency_ms if self.latency_ms is None else self.latency_ms
        kind = goal.kind if self.kind is None else self.kind
        changed = Goal(recall, latency_ms, goal.memory_bytes, kind)
        words = [
            f"{name} {'measured' if old is None else old} → {new}"
            for name, old, new in (
                ("recall", goal.recall, recall),
                ("latency-ms", goal.latency_ms, latency_ms),
                ("kind", goal.kind, kind),
            )
            if old != new
        ]
        return changed, words
