"""Blocks of work in threads of ours, each with a single-threaded BLAS.

A library's own threads wait for each other at every product, and spin while they wait: on a machine that does other
work too they made small products up to a hundred times slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from indexer.cores import cores


@contextmanager
def block_threads() -> Iterator[Callable[..., Iterator[Any]]]:
    """A map over blocks. Results come in the order of the blocks: sums are the same for any number of threads."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), ThreadPoolExecutor(cores()) as pool:
        yield pool.map
