"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
import sys

import pyarrow as pa


def give_back() -> None:
    """Arrow and the C library keep what was freed for later, each thread its own: half a matrix of 100,000 rows.

    For places after which arrays of other sizes are made, so that the kept blocks would stand beside them.
    """
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
        if trim is not None:
            trim(0)
