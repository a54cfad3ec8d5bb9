"""Sets glibc's malloc thresholds so that freed image buffers are reused, and returns freed memory to the kernel."""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
KEPT_BYTES = 64 << 20  # free bytes at the top of a heap above which it is trimmed
UNMAPPED_BYTES = 1 << 20
MAPPED_BYTES = 32 << 20  # size from which a block is mapped by itself and unmapped when freed; half an arena's heap


def keep_freed_memory() -> None:
    """Raise malloc's thresholds for this process. No effect without glibc, or where a MALLOC_* variable is set.

    With glibc's defaults large blocks are unmapped when freed, and the arrays of each image are mapped and zeroed
    again: 230 page faults an image and up to 5 % of the CPU time (glibc adapts its thresholds to the sizes freed
    first, so the cost varies from run to run).
    """
    _set(M_TRIM_THRESHOLD, KEPT_BYTES)
    _set(M_MMAP_THRESHOLD, MAPPED_BYTES)


def share_one_heap() -> None:
    """Let the threads of this process allocate from one heap. No effect where `keep_freed_memory` has none.

    By default each new thread gets a heap of its own, which keeps what the thread has freed, and Lance starts a thread
    for every core: over a table of 800,000 rows the peak of `probes linear` fell from 67 to 35 MB, that of `probes
    compare` from 149 to 62, of `labels` from 53 to 32 (benchmarks/scale.py).
    """
    _set(M_ARENA_MAX, 1)


def unmap_large_blocks() -> None:
    """Let this process return each block of UNMAPPED_BYTES or more to the kernel when it is freed. No effect where
    `keep_freed_memory` has none.

    For a process that lives long and seldom works: by default glibc raises its threshold with the blocks that are
    freed, and then keeps them.
    """
    _set(M_MMAP_THRESHOLD, UNMAPPED_BYTES)
    _set(M_TRIM_THRESHOLD, UNMAPPED_BYTES)


def share_one_heap_with_arrow() -> None:
    """`share_one_heap`, also for Arrow, unless a variable names its pool. Before pyarrow is imported.

    The threads of Arrow's own pool keep what they freed: `labels` of 3.2 million rows then took 107 MB in place of 94.
    """
    share_one_heap()
    if sys.platform == "linux":
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")


def release_freed_memory() -> None:
    """Return the memory that Arrow and glibc cache after it was freed to the kernel.

    Call it before arrays of other sizes are allocated: the cached blocks cannot hold them and would add to the peak
    (half the size of a matrix of 100,000 rows, measured).
    """
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
        if trim is not None:
            trim(0)


def _set(parameter: int, value: int) -> None:
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(parameter, value)
