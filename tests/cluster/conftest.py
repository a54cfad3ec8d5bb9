"""Counts what the tests of faults find, for one table at the end of `make test-cluster`."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

COUNTS = ("runs", "faults", "lost", "doubled", "altered", "hung")
WRONG = COUNTS[2:]


class Faults:
    """Compares what a disturbed run left behind with an undisturbed one, and counts it."""

    def __init__(self, node: pytest.Item) -> None:
        self._node = node

    def __call__(self, kind: str, found: Any, truth: Any, *, faults: int = 1, runs: int = 1) -> None:
        """Both as `truth.contents` or as rows by key. Fails where they differ."""
        counts = compared(found, truth)
        self._count(kind, {"runs": runs, "faults": faults, **counts})
        assert not any(counts.values()), f"{kind}: {counts}"
        assert found == truth

    @contextmanager
    def unless_hung(self, kind: str) -> Iterator[None]:
        try:
            yield
        except (TimeoutError, subprocess.TimeoutExpired):
            self._count(kind, {"runs": 1, "hung": 1})
            raise

    def _count(self, kind: str, counts: Mapping[str, int]) -> None:
        self._node.user_properties.append(("fault", {"kind": kind, **counts}))


def compared(found: Any, truth: Any) -> dict[str, int]:
    rows, right = (value.get("rows", value) for value in (found, truth))
    own = rows.keys() & right.keys()
    facts = sum(found.get(name) != truth.get(name) for name in ("ledger", "failures"))
    return {
        "lost": len(right.keys() - rows.keys()),
        "doubled": len(rows.keys() - right.keys()) + len(found.get("doubled", ())),
        "altered": sum(rows[key] != right[key] for key in own) + facts,
    }


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Faults:
    return Faults(request.node)


def table(found: list[dict[str, Any]]) -> list[str]:
    """One line for each kind of fault."""
    sums: dict[str, Counter[str]] = {}
    for each in found:
        sums.setdefault(each["kind"], Counter()).update({name: each.get(name, 0) for name in COUNTS})
    rows = [("fault", *COUNTS), *((kind, *(f"{sums[kind][name]:,}" for name in COUNTS)) for kind in sorted(sums))]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    stats = terminalreporter.stats
    reports = [report for kind in ("passed", "failed") for report in stats.get(kind, []) if report.when == "call"]
    found = [value for report in reports for name, value in report.user_properties if name == "fault"]
    if not found:
        return
    terminalreporter.section("faults survived")
    for line in table(found):
        terminalreporter.write_line(line)
    for report in [*stats.get("failed", []), *stats.get("error", [])]:
        terminalreporter.write_line(f"FAILED: {report.nodeid}")
    for report in stats.get("skipped", []):
        terminalreporter.write_line(f"not run: {report.nodeid}: {report.longrepr[2]}")
