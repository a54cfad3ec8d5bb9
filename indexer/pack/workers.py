"""Worker processes, and an ordered map over them with bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

FEW = 512  # files; for fewer, starting processes takes longer than it saves
AHEAD = 2  # items submitted for each process before waiting for the first

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def workers(processes: int, files: int) -> Iterator[Executor | None]:
    """Worker processes, or None where the work is done in this one."""
    if processes <= 1 or files < FEW:
        yield None
        return
    os.environ["PYTHONSAFEPATH"] = "1"  # the processes import nothing from the current folder
    executor = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def mapped(executor: Executor | None, call: Callable[[T], R], items: Iterable[T], processes: int) -> Iterator[R]:
    """`call` of each item, in order. Holds at most AHEAD items for each worker."""
    if executor is None:
        yield from map(call, items)
        return
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(executor.submit(call, item))
        if len(waiting) >= AHEAD * processes:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
