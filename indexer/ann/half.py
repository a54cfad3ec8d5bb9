"""float16 → float32 by shifting bits: exact, and several times as fast as numpy's and FAISS's conversions.

Sign, exponent and mantissa move up by 13 bits, and the exponents' biases (15 and 127) differ by 2^112.
"""

from __future__ import annotations

import numpy as np

from indexer.types import Float16, Float32

SHIFT, SIGN_AND_VALUE, REBIAS = 13, np.uint32(0x8FFFE000).view(np.int32), np.float32(2.0**112)
NUMBERS = 65_536  # converted at once, so that they stay in the cache: 256 KB
BEYOND = 65_536.0  # an infinity or NaN becomes a number of at least this; the largest finite one is 65,504


def to_float32(vectors: Float16) -> Float32:
    """The rows (n, dim) as float32."""
    floats = np.empty(vectors.shape, np.float32)
    step = max(1, NUMBERS // max(vectors.shape[1], 1))
    for start in range(0, len(vectors), step):
        part = slice(start, start + step)
        _shift(vectors[part], floats[part])
        if floats[part].max(initial=0) >= BEYOND or floats[part].min(initial=0) <= -BEYOND:
            floats[part] = vectors[part]
    return floats


def finite_float32(vectors: Float16) -> Float32:
    """`to_float32` of few rows; numbers that are not finite become finite ones of 65,536 and more."""
    floats = np.empty(vectors.shape, np.float32)
    _shift(vectors, floats)
    return floats


def _shift(vectors: Float16, out: Float32) -> None:
    bits = out.view(np.int32)
    bits[...] = vectors.view(np.int16)
    bits <<= SHIFT
    bits &= SIGN_AND_VALUE
    out *= REBIAS
