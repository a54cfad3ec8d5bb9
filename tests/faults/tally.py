"""What a scenario found, as one line of the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.faults.life import Verdict

COUNTS = ("runs", "faults", "lost", "doubled", "altered", "hung", "wrong")


@dataclass
class Tally:
    """One kind of fault."""

    fault: str
    runs: int = 0  # commands started
    faults: int = 0  # of them met by the fault
    lost: int = 0
    doubled: int = 0
    altered: int = 0
    hung: int = 0
    wrong: int = 0  # other promises broken: exit code, message, a rerun that cannot go on
    notes: list[str] = field(default_factory=list)
    hit: Counter[str] = field(default_factory=Counter)  # where the faults struck

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.altered or self.hung or self.wrong)

    def judge(self, what: str, verdict: Verdict) -> None:
        self.lost += len(verdict.lost)
        self.doubled += len(verdict.doubled)
        self.altered += len(verdict.altered)
        if not verdict:
            self.notes.append(f"{what}: {verdict}")

    def blame(self, what: str) -> None:
        self.wrong += 1
        self.notes.append(what)

    def hang(self, what: str) -> None:
        self.hung += 1
        self.notes.append(f"hung: {what}")


def merged(tallies: Sequence[Tally]) -> list[Tally]:
    """One line for the parts of one scenario."""
    found: dict[str, Tally] = {}
    for part in tallies:
        whole = found.setdefault(part.fault, Tally(part.fault))
        for name in COUNTS:
            setattr(whole, name, getattr(whole, name) + getattr(part, name))
        whole.notes += part.notes
        whole.hit += part.hit
    return list(found.values())


def table(tallies: Sequence[Tally]) -> str:
    names = ("fault", *COUNTS)
    rows = [names, *(tuple(str(getattr(t, name)) for name in names) for t in tallies)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(names))]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells))
    return "\n".join(lines)
