"""A child process that loads and searches one file of `indexer.ann.engines.rabitq`, and writes what is wrong as JSON.

A file from elsewhere may crash or exhaust the native code that reads it: that then ends this process alone.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import numpy as np

from indexer.ann.engines.rabitq import RabitqLists, loaded
from indexer.errors import IndexFileError
from indexer.isolation.program import LEAST_BYTES, limit_cpu

BYTES_BY_FILE = 4  # of memory, for each byte of the file: its codes, the copies of a load
CPU_SECONDS = 300
K = 10


def main(path: Path) -> str:
    """What is wrong with the file; "" for nothing."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit_cpu(CPU_SECONDS)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    room = LEAST_BYTES + BYTES_BY_FILE * path.stat().st_size
    resource.setrlimit(resource.RLIMIT_AS, (room if hard == resource.RLIM_INFINITY else min(room, hard), hard))
    try:
        index = loaded(path)
    except IndexFileError as error:  # the package is missing, which the load itself reports
        return "" if "pip install" in str(error) else str(error)
    except (RuntimeError, ValueError, MemoryError) as error:
        return str(error).splitlines()[0][:120] if str(error) else "too little memory"
    queries = np.concatenate([np.zeros((1, index.dim)), index.centroids[:1]]).astype(np.float64)
    RabitqLists().candidates(index, queries, min(K, max(len(index.row_ids), 1)), index.nlist)
    return ""


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))))
