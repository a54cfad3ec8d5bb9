"""Starts this package's Python programs as child processes that never import modules from the current folder."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = str(Path(__file__).resolve().parents[1])  # the folder that contains this package
STOPS = (signal.SIGINT, signal.SIGTERM)  # a scheduler sends them to every process of a job


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs `python -m module`; -P keeps the current folder off sys.path."""
    return [sys.executable, "-P", "-m", module, *arguments]


@contextmanager
def deaf_to_stops() -> Iterator[None]:
    """What this thread starts inside hears no SIGINT and no SIGTERM, from its first instruction on.

    Only the parent stops: a child that a scheduler's signal ends would look like one that its input has killed. A child
    may unblock them once it has handlers. It ends with its parent, at the end of its standard input or socket.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def environment(**settings: str) -> dict[str, str]:
    """The environment for such a command: this process's, without relative entries in PYTHONPATH."""
    given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if Path(entry).is_absolute()]
    path = os.pathsep.join([PACKAGES, *given])
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", **settings}
