"""Graph rewritings for speed, one per module. Each changes a network in place and returns the steps that undo it."""

from __future__ import annotations

from collections.abc import Callable

Undo = list[Callable[[], None]]  # to be called in reverse order
