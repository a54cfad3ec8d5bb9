"""Keeps OpenVINO from leaving a thread's signal handlers without a stack.

Loading OpenVINO's CPU plugin gives the calling thread an alternate signal stack (`sigaltstack`, Linux only). Unloading
it unmaps that memory, and puts the earlier stack back only where its own is still the thread's. Two compiled graphs
that go in the order in which they came, or one that goes in another thread, so leave the address of nothing, and the
next signal that Python hears, Ctrl-C as well, ends the process without a word: the kernel has nowhere to call the
handler, nor that of the segmentation fault. (`SigAltStackSetup` of OpenVINO 2026.4.)
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_DISABLED = 2  # SS_DISABLE: handlers run on the thread's own stack


class _Stack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("nbytes", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """On leaving, this thread has the alternate signal stack that it had before, if any.

    What then unloads the plugin, wherever and whenever, finds another stack than its own and lets it be. An earlier
    stack that is too small for this process by now (AMX makes a handler's frame larger) is not set again: none is.
    """
    sigaltstack = getattr(ctypes.CDLL(None), "sigaltstack", None) if sys.platform == "linux" else None
    before = _Stack()
    if sigaltstack is None or sigaltstack(None, ctypes.byref(before)):
        yield
        return
    try:
        yield
    finally:
        if sigaltstack(ctypes.byref(before), None):
            sigaltstack(ctypes.byref(_Stack(flags=_DISABLED)), None)
