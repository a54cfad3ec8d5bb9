"""Python's collector of reference cycles, during a run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def startup_objects_left_alone() -> Iterator[None]:
    """What exists now, some hundred thousand objects of the imported modules, is not searched again and again.

    The collector walks all of them after every few thousand images, which takes 0.1 s, holds the interpreter's lock
    and empties the processor's caches. A program that has frozen its own objects before keeps them so.
    """
    ours = not gc.get_freeze_count()
    gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()
