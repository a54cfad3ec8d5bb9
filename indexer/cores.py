"""The number of CPU cores available. Imports no torch."""

from __future__ import annotations

import os


def cores() -> int:
    """Number of cores in this process's affinity mask; all cores where the system has no such mask."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
