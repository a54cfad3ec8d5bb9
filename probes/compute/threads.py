"""Maps work over blocks in threads, each with a single-threaded BLAS.

A BLAS's own threads wait for each other at every product, and spin while they wait: on a busy machine they made small
products up to a hundred times slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from indexer.cores import cores
from indexer.malloc import share_one_heap


@contextmanager
def block_threads() -> Iterator[Callable[..., Iterator[Any]]]:
    """Yields a map over blocks. Results are in the order of the blocks, so that sums do not depend on the threads."""
    from threadpoolctl import threadpool_limits

    share_one_heap()
    with threadpool_limits(1), ThreadPoolExecutor(cores()) as pool:
        yield pool.map


@contextmanager
def one_thread() -> Iterator[None]:
    """Limits BLAS to one thread, for work of a moment: on a busy machine its threads cost more than they save."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield
