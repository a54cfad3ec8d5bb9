"""Two test processes share two cores: each computes with one thread, or they wait for each other's."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a shell; the tests interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)
