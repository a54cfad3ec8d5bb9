"""Progress callbacks without output, the default of every call that reports progress."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from indexer.types import Progress


class Silent:
    """Implements `indexer.types.Progress`: shows nothing."""

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[object]:  # noqa: ARG002 - the protocol's
        return nullcontext()

    def advance(self, n: int = 1, **counts: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass


SILENT: Progress = Silent()
