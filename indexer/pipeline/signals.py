"""Ctrl-C and SIGTERM end a run in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM asks the run to stop; a second one is what Ctrl-C was before."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        interrupted.set()
        stop.set()
        ctrl_c = before[signal.SIGINT]  # ignored where a shell starts a run in the background
        signal.signal(number, ctrl_c if callable(ctrl_c) else signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
