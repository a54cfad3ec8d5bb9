"""A writer that dies at a chosen moment, in the process of the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from indexer.store.writer import StoreWriter


@contextmanager
def killed_after(step: int) -> Iterator[None]:
    """The block must end by the writer's death, after its `step`-th write is on the disk; opening it is write 0."""
    real, seen = StoreWriter._sync, []

    def dies(writer, *kinds):
        real(writer, *kinds)
        seen.append(kinds)
        if len(seen) == step + 1:
            raise RuntimeError("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoreWriter, "_sync", dies)
        with pytest.raises(RuntimeError, match="killed"):
            yield
