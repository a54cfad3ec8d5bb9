"""Starts this package's Python programs as child processes that never import modules from the current folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGES = str(Path(__file__).resolve().parents[1])  # the folder that contains this package


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs `python -m module`; -P keeps the current folder off sys.path."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(**settings: str) -> dict[str, str]:
    """The environment for such a command: this process's, without relative entries in PYTHONPATH."""
    given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if Path(entry).is_absolute()]
    path = os.pathsep.join([PACKAGES, *given])
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", **settings}
