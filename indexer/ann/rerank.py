"""Re-ranks an engine's candidates by their stored vectors: float32 products first, then the exact cosine of the few
that can be among the k best.
"""

from __future__ import annotations

import numpy as np

from indexer.ann.exact import BLOCK_ROWS, Found, best, cosines, cosines_of, lengths_of, rounding_of, unit_floats
from indexer.ann.vectors import Rows
from indexer.types import Bool, Float16, Float32, Float64, Int64

# With rows whose lengths differ from 1 by at most this, a product's bounds leave few rows for the exact cosine.
UNIT = 0.01
# float16 → float32 by shifting: sign, exponent and mantissa move up by 13 bits, and the exponents' biases (15 and 127)
# differ by 2^112. Exact for every finite number; six times as fast as numpy's conversion of one number at a time.
SHIFT, SIGN_AND_VALUE, REBIAS = 13, np.uint32(0x8FFFE000).view(np.int32), np.float32(2.0**112)


def rank(rows: Rows, positions: Int64, queries: Float64, row_ids: Int64, k: int) -> Found:
    """The k best of each unit query's candidates, given as positions and row ids (q, r), -1 where there are fewer."""
    slack = rows.slack
    if slack is None or slack > UNIT:
        return _rank_unbounded(rows, positions, queries, row_ids, k)
    floats = queries.astype(np.float32)
    # A product differs from the cosine by less than this; queries and rows are as good as unit vectors.
    margin = slack / (1 - slack) * (1 + slack) + rounding_of(rows.dim)
    exact = np.full(positions.shape, -np.inf)
    again: list[int] = []
    for i, spots in enumerate(positions):
        known = np.flatnonzero(spots >= 0)
        vectors = shifted(rows.take(spots[known]))
        products = vectors @ floats[i]
        near = np.arange(len(known))
        if len(known) > k:
            bar = np.partition(products, len(known) - k)[len(known) - k] - 2 * margin
            near = np.flatnonzero(products >= bar)
        chosen = vectors[near]
        if (np.abs(lengths_of(chosen) - 1) > 2 * UNIT).any():  # a row without direction may have displaced others
            again.append(i)
            continue
        exact[i, known[near]] = cosines_of(chosen, np.broadcast_to(queries[i], chosen.shape))
    found = best(exact, row_ids, k)
    if again:
        mended = _rank_unbounded(rows, positions[again], queries[again], row_ids[again], k)
        found[0][again], found[1][again] = mended
    return found


def shifted(vectors: Float16) -> Float32:
    """The rows as float32; numbers that are not finite become finite ones of 65,536 and more."""
    bits = vectors.view(np.int16).astype(np.int32)
    bits <<= SHIFT
    bits &= SIGN_AND_VALUE
    floats: Float32 = bits.view(np.float32)
    floats *= REBIAS
    return floats


def rescore(rows: Rows, positions: Int64, queries: Float64) -> Float32:
    """Cosines in float32 of each unit query (q, dim) with the rows at its own positions (q, r); -inf at -1."""
    q, r = positions.shape
    floats = queries.astype(np.float32)
    scores = np.empty((q, r), np.float32)
    step = max(1, BLOCK_ROWS // max(r, 1))
    for start in range(0, q, step):
        part = positions[start : start + step]
        vectors = unit_floats(rows.take(np.maximum(part, 0).reshape(-1))).reshape(len(part), r, rows.dim)
        scores[start : start + step] = np.matmul(vectors, floats[start : start + step, :, None])[:, :, 0]
    scores[positions < 0] = -np.inf
    return scores


def _rank_unbounded(rows: Rows, positions: Int64, queries: Float64, row_ids: Int64, k: int) -> Found:
    """`rank` where rows may have any length, or none."""
    scores = rescore(rows, positions, queries)
    if scores.shape[1] > k:
        bar = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k] - 2 * rounding_of(rows.dim)
        positions = np.where(scores >= bar, positions, -1)
    known: Bool = positions >= 0
    exact = np.full(scores.shape, -np.inf)
    vectors = rows.take(positions[known])
    exact[known] = cosines(vectors, np.arange(len(vectors)), queries, np.nonzero(known)[0])
    return best(exact, row_ids, k)
