"""What a piece of code holds in memory."""

from __future__ import annotations

import resource
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def most_resident() -> int:
    """The most bytes that this process had resident, since its program was started.

    `ru_maxrss` is not that: Linux carries it over from the process that started this one, as large as that was then.
    """
    try:
        words = Path("/proc/self/status").read_text(encoding="ascii").split()
    except OSError:  # macOS, which counts it in bytes and for this program alone
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(words[words.index("VmHWM:") + 1]) << 10


def least_peak(work: Callable[[], object]) -> int:
    """The most bytes that Python and numpy hold at once in `work`, where that is least of three times.

    pathlib interns each part of a path, and now and then Python makes its table of interned strings anew: 4 MB in a new
    process, 16 MB in one that has imported everything, whatever the work.
    """
    peaks = []
    for _ in range(3):
        with peak_memory() as peak:
            work()
            peaks.append(peak())
    return min(peaks)


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """The most bytes that Python and numpy held at once inside, beyond those before."""
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        yield lambda: tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
