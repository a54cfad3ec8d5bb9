"""Keeps pyarrow from importing pandas, which takes 0.2 s of every command where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class _NoPandas:
    """An import hook that says that there is no pandas."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if name == "pandas":
            raise ModuleNotFoundError(name=name)
        return None


def forgo_pandas() -> None:
    """Let pyarrow look for pandas now, in vain: it looks once, at its first conversion of a Python value.

    For a command line alone: in this process pyarrow no longer takes or gives data frames. pandas itself can still be
    imported.
    """
    if "pandas" in sys.modules:
        return
    hook = _NoPandas()
    sys.meta_path.insert(0, hook)
    try:
        import pyarrow as pa

        pa.scalar(0)
    finally:
        sys.meta_path.remove(hook)
