"""The child process of `isolated.py`: reads a file's bytes on stdin, and writes its parts to stdout."""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np

from indexer.errors import PixelError
from indexer.pixels.decoder_errors import quiet
from indexer.pixels.kinds import open_kind
from indexer.pixels.parts import Reader, Rendering
from indexer.types import PixelSpec

MEMORY_BYTES = 8 << 30  # of address space: a decompression bomb ends in a MemoryError of this process
LEAST_BYTES = 3 << 30  # of address space: less would refuse plain files, since the libraries take 1 to 2 GiB of it
_HEAD = struct.Struct("<II")


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more: each opens a new file, or decodes parts of the open one."""
    quiet()
    _send(answers, {"ready": True})
    reader: Reader | None = None
    while head := requests.read(_HEAD.size):
        size, nbytes = _HEAD.unpack(head)
        facts = json.loads(requests.read(size))
        data = requests.read(nbytes)
        try:
            if "positions" in facts and reader is not None:
                for raster in reader.rasters(facts["positions"]):
                    pixels = np.ascontiguousarray(raster.pixels)
                    _send(answers, {"shape": pixels.shape, "aspect": raster.aspect, "flags": raster.flags}, pixels)
                continue
            reader = None  # frees the memory of the previous file
            if "kind" in facts:
                _send(answers, {"received": True})  # after this a crash is caused by the file
                _limit_cpu(facts["cpu_seconds"])
                reader = open_kind(facts["kind"], data, _rendering(facts["rendering"]))
                _send(answers, {"facts": [dict(part.facts) for part in reader.parts] if facts["list"] else []})
        except PixelError as error:
            _send(answers, {"reason": error.reason, "detail": error.detail})


def _rendering(facts: dict[str, Any]) -> Rendering:
    spec = facts.pop("fitted_to")
    return replace(Rendering(**facts), isolated=True, fitted_to=PixelSpec(**spec) if spec else None)


def _send(answers: BinaryIO, facts: dict[str, Any], pixels: np.ndarray[Any, Any] | None = None) -> None:
    text = json.dumps(facts).encode("utf-8", "replace")
    answers.write(_HEAD.pack(len(text), 0 if pixels is None else pixels.nbytes) + text)
    if pixels is not None:
        answers.write(pixels.data)
    answers.flush()


def _limit_cpu(seconds: int) -> None:
    """Allow that much more CPU time, after which the kernel ends this process with SIGXCPU."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + seconds, hard))


def main() -> None:
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


if __name__ == "__main__":
    main()
