"""Values that many requests need: each is computed once for a version of a table, by one thread."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

MOST_VALUES = 32
MOST_VERSIONS = 2  # a request may still answer from the version before a commit


class Kept:
    """Values by version and name; those of older versions are dropped, then the least recently used. Thread-safe.

    Threads that ask for a value which another computes wait for it; those that ask for other values do not.
    """

    def __init__(self, most: int = MOST_VALUES) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[str, Hashable], tuple[threading.Lock, list[Any]]] = OrderedDict()
        self._versions: list[str] = []

    def of(self, version: str, name: Hashable, make: Callable[[], Any]) -> Any:
        """The value of this name, made where it is not held. What `make` raises is raised, and nothing is held."""
        with self._lock:
            self._make_room(version)
            turn, value = self._held.setdefault((version, name), (threading.Lock(), []))
            self._held.move_to_end((version, name))
            while len(self._held) > self._most:
                self._held.popitem(last=False)
        with turn:
            if not value:
                value.append(make())
            return value[0]

    def _make_room(self, version: str) -> None:
        if version in self._versions:
            return
        self._versions = [*self._versions, version][-MOST_VERSIONS:]
        for held in [held for held in self._held if held[0] not in self._versions]:
            del self._held[held]
