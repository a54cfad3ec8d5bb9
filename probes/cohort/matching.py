"""Joins the rows of several tables by key, with 8 bytes a row of the first table, and more for shared rows only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from indexer.types import Int64


def hashes(texts: Iterable[str]) -> Int64:
    """64-bit blake2b of each text."""
    return np.frombuffer(b"".join(hashlib.blake2b(t.encode(), digest_size=8).digest() for t in texts), "<i8")


class KeyPlaces:
    """Looks keys up among n wanted ones by sorted hashes; every match is confirmed by comparing the keys."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = keys
        own = hashes(keys)
        self._order = np.argsort(own, kind="stable")
        self._sorted = own[self._order]

    def find(self, keys: Sequence[str], own: Int64) -> Int64:
        """The index (m,) of each key, of hashes `own`, among the wanted ones; -1 for other keys."""
        first = np.searchsorted(self._sorted, own, "left")
        last = np.searchsorted(self._sorted, own, "right")
        out = np.full(len(own), -1, np.int64)
        for i in np.flatnonzero(last > first):
            for place in self._order[first[i] : last[i]].tolist():  # more than one where hashes collide
                if self._keys[place] == keys[int(i)]:
                    out[i] = place
        return out
