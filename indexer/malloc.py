"""Sets glibc's malloc thresholds so that freed picture buffers are reused, and returns freed memory to the kernel."""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = 64 << 20  # free at the end of a thread's heap before it shrinks
MAPPED_BYTES = 32 << 20  # half of a thread's heap: larger blocks are the system's own, and go back when freed


def keep_freed_memory() -> None:
    """For this process, from now on; elsewhere than with glibc, or where MALLOC_* says otherwise, nothing changes.

    By itself the C library gives large blocks back to the system at once, and each picture's arrays are mapped and
    zeroed anew, page by page: 230 pages a picture, and one processor second in twenty (or none, as the first sizes
    that are freed happen to set its thresholds).
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)


def release_freed_memory() -> None:
    """Return to the kernel what Arrow and the C library keep for later, each thread its own.

    For places after which arrays of other sizes are allocated, beside which the kept blocks would stand: half a matrix
    of 100,000 rows.
    """
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
        if trim is not None:
            trim(0)
