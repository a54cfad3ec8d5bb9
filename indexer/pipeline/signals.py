"""Handlers of Ctrl-C and SIGTERM, which end a run with a commit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM sets `stop`; a second one has the effect it had before this context.

    Where SIGINT is ignored, as in a shell's background job, it stays ignored.
    """
    interrupted = threading.Event()
    ctrl_c = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        interrupted.set()
        stop.set()
        signal.signal(number, ctrl_c if callable(ctrl_c) else signal.default_int_handler)

    heard = [signal.SIGTERM] if ctrl_c is signal.SIG_IGN else [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, ask) for number in heard}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
