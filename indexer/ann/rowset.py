"""Sets of row ids as bitmaps: e.g. the rows that match a filter, the rows of a patient, the rows of an index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from indexer.types import Bool, Int64, UInt8

CHUNK = 1 << 17  # bytes of the bitmap unpacked at once
SPARSE = 64  # bits for each id; sparser blocks are set id by id


@dataclass(frozen=True)
class RowSet:
    """Immutable. Stable row ids are dense, so a table of 100 million rows takes 12.5 MB."""

    bits: UInt8  # bit i (little-endian, as in FAISS) is set where row id i is in the set

    @classmethod
    def of(cls, blocks: Iterable[Int64]) -> RowSet:
        """The set of all ids in the blocks, each an array of ids ≥ 0 in any order."""
        bits = np.zeros(0, np.uint8)
        for ids in blocks:
            if not len(ids):
                continue
            low, high = int(ids.min()) // 8 * 8, int(ids.max())
            if high // 8 >= len(bits):
                bits = np.pad(bits, (0, max(high // 8 + 1 - len(bits), len(bits) // 2)))
            if high - low > SPARSE * len(ids):
                np.bitwise_or.at(bits, ids >> 3, np.left_shift(1, ids & 7).astype(np.uint8))
            else:
                flags = np.zeros(high - low + 1, bool)
                flags[ids - low] = True
                packed = np.packbits(flags, bitorder="little")
                bits[low // 8 : low // 8 + len(packed)] |= packed
        return cls(bits)

    @classmethod
    def below(cls, limit: int) -> RowSet:
        """Every id from 0 up to, not including, `limit`."""
        bits = np.full(-(-limit // 8), 255, np.uint8)
        if limit % 8:
            bits[-1] = (1 << limit % 8) - 1
        return cls(bits)

    def __len__(self) -> int:
        return int(np.bitwise_count(self.bits).sum(dtype=np.int64))

    def has(self, row_ids: Int64) -> Bool:
        """Which of the ids (any shape) are in the set."""
        spots = row_ids >> 3
        inside = (row_ids >= 0) & (spots < len(self.bits))
        if not len(self.bits):
            return np.zeros(row_ids.shape, bool)
        found: Bool = inside & ((self.bits[np.where(inside, spots, 0)] >> (row_ids & 7).astype(np.uint8)) & 1 > 0)
        return found

    def __and__(self, other: RowSet) -> RowSet:
        n = min(len(self.bits), len(other.bits))
        return RowSet(self.bits[:n] & other.bits[:n])

    def __or__(self, other: RowSet) -> RowSet:
        longer, shorter = (self.bits, other.bits) if len(self.bits) >= len(other.bits) else (other.bits, self.bits)
        bits = longer.copy()
        bits[: len(shorter)] |= shorter
        return RowSet(bits)

    def __sub__(self, other: RowSet) -> RowSet:
        bits = self.bits.copy()
        n = min(len(bits), len(other.bits))
        bits[:n] &= ~other.bits[:n]
        return RowSet(bits)

    def ids(self) -> Iterator[Int64]:
        """The ids ascending, in blocks."""
        for start in range(0, len(self.bits), CHUNK):
            part = self.bits[start : start + CHUNK]
            if part.any():
                yield np.flatnonzero(np.unpackbits(part, bitorder="little")).astype(np.int64) + 8 * start
