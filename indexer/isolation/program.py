"""What every decoding child process does: it limits its memory and CPU time, discards output, and answers requests."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from indexer.isolation.process import HEAD

MEMORY_BYTES = 8 << 30  # of address space: a decompression bomb ends in a MemoryError of this process
LEAST_BYTES = 3 << 30  # of address space: less would refuse plain files, since the libraries take 1 to 2 GiB of it


def read_request(requests: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next request's facts and payload; None where there are no more."""
    head = requests.read(HEAD.size)
    if not head:
        return None
    size, nbytes = HEAD.unpack(head)
    return json.loads(requests.read(size)), requests.read(nbytes)


def send(answers: BinaryIO, facts: dict[str, Any], pixels: np.ndarray[Any, Any] | None = None) -> None:
    text = json.dumps(facts).encode("utf-8", "replace")
    answers.write(HEAD.pack(len(text), 0 if pixels is None else pixels.nbytes) + text)
    if pixels is not None:
        answers.write(pixels.data)
    answers.flush()


def limit_cpu(seconds: int) -> None:
    """Allow that much more CPU time, after which the kernel ends this process with SIGXCPU."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + seconds, hard))


def run(serve: Callable[[BinaryIO, BinaryIO], None]) -> None:
    """Set this process up and let `serve` answer what comes on its standard input."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    limit = max(LEAST_BYTES, min(MEMORY_BYTES, half))
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # C libraries print to stdout too
    os.dup2(nowhere, 2)
    serve(sys.stdin.buffer, answers)
