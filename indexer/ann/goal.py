"""Targets of an index build. Imports no heavy library, so that the command line takes its defaults from here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """What the caller asks of the index."""

    recall: float = 0.98  # share of the true 10 nearest
    latency_ms: float = 5.0  # of one query alone
    memory_bytes: int = 4 << 30  # to build in and to search with
    kind: str | None = None  # a name of ENGINES: build that one, whatever the measurements say


@dataclass(frozen=True)
class GoalChange:
    """What a refresh is to ask from now on; None keeps what the index was built with."""

    recall: float | None = None
    latency_ms: float | None = None
    kind: str | None = None

    def of(self, goal: Goal) -> tuple[Goal, list[str]]:
        """The goal with the changes, and each change in words; a change to what it is already is none."""
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
