"""A decoder of a test in place of the workers' own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from indexer.pipeline import worker
from indexer.pixels.png import small


def decode_by(monkeypatch: pytest.MonkeyPatch, decode_missing: Callable[..., Any]) -> None:
    """Let the workers decode every image by this function, small PNGs as well."""
    monkeypatch.setattr(small, "SMALL_PIXELS", 0)
    monkeypatch.setattr(worker, "decode_missing", decode_missing)
