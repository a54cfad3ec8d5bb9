"""Permissions that hold for root too, as they do for every other user."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

CAPABILITIES_3 = 0x20080522  # of capget(2) and capset(2): three numbers of 32 bits, twice


@contextmanager
def obeying_permissions() -> Iterator[None]:
    """Inside, this thread may read and write only what the modes of files allow it, whoever runs the tests."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_3, 0)
    kept = (ctypes.c_uint32 * 6)()
    _checked(libc.capget(header, kept))
    less = (ctypes.c_uint32 * 6)(0, kept[1], kept[2], 0, kept[4], kept[5])  # none in effect, all may be taken back
    _checked(libc.capset(header, less))
    try:
        yield
    finally:
        _checked(libc.capset(header, kept))


def _checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
