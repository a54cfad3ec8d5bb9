"""One rewriting a module. Each changes a network in place and returns the steps that take it back, in order."""

from __future__ import annotations

from collections.abc import Callable

Undo = list[Callable[[], None]]
