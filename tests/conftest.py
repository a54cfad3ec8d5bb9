"""Two test processes share two cores: each computes with one thread, or they wait for each other's."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
