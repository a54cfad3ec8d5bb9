"""Which keys a table holds, in 8 bytes each, so that a writer of millions of rows meets each key once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from indexer.types import Int64


class KeySet:
    """The hashes of a table's keys: 40 million take 320 MB. Equal hashes are only a suspicion.

    They lie in sorted runs, each at least twice as long as the next: adding is cheap, and few runs are looked into.
    """

    def __init__(self) -> None:
        self._runs: list[Int64] = []

    def add(self, keys: Iterable[str]) -> None:
        run = np.unique(_hashes(keys))
        if not len(run):
            return
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            merged = np.concatenate([self._runs.pop(), self._runs.pop()])
            merged.sort(kind="stable")  # which merges two sorted halves in one pass
            self._runs.append(merged)

    def discard(self, keys: Iterable[str]) -> None:
        gone = _hashes(keys)
        self._runs = [run[~np.isin(run, gone)] for run in self._runs]

    def suspects(self, keys: Sequence[str]) -> set[str]:
        """Keys whose hash is known, or that occur twice in `keys`."""
        hashes = _hashes(keys)
        known = np.zeros(len(keys), bool)
        for run in self._runs:
            if len(run):
                spots = np.searchsorted(run, hashes)
                known |= run[np.minimum(spots, len(run) - 1)] == hashes
        twice = {key for key, n in Counter(keys).items() if n > 1}
        return twice | {key for key, old in zip(keys, known.tolist(), strict=True) if old}


def _hashes(keys: Iterable[str]) -> Int64:
    """Python's own, which differ from process to process: they never leave this one."""
    return np.fromiter(map(hash, keys), np.int64)
