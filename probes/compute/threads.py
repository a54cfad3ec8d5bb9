"""Blocks of work in threads of ours, each with a single-threaded BLAS.

A library's own threads wait for each other at every product, and spin while they wait: on a machine that does other
work too they made small products up to a hundred times slower.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


@contextmanager
def block_threads() -> Iterator[Callable[..., Iterator[Any]]]:
    """A map over blocks. Results come in the order of the blocks: sums are the same for any number of threads."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        yield pool.map
