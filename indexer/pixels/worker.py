"""The child process of `isolated.py`: reads a file's bytes on stdin, and writes its parts to stdout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np

from indexer.errors import PixelError
from indexer.isolation.program import limit_cpu, read_request, run, send
from indexer.pixels.decoder_errors import quiet
from indexer.pixels.kinds import open_kind
from indexer.pixels.parts import Reader, Rendering
from indexer.types import PixelSpec


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more: each opens a new file, or decodes parts of the open one."""
    quiet()
    send(answers, {"ready": True})
    reader: Reader | None = None
    while request := read_request(requests):
        facts, data = request
        try:
            if "positions" in facts and reader is not None:
                for raster in reader.rasters(facts["positions"]):
                    pixels = np.ascontiguousarray(raster.pixels)
                    send(answers, {"shape": pixels.shape, "aspect": raster.aspect, "flags": raster.flags}, pixels)
                continue
            reader = None  # frees the memory of the previous file
            if "kind" in facts:
                send(answers, {"received": True})  # after this a crash is caused by the file
                limit_cpu(facts["cpu_seconds"])
                reader = open_kind(facts["kind"], data, _rendering(facts["rendering"]))
                listed = [dict(part.facts) for part in reader.parts] if facts["list"] else []
                send(answers, {"facts": listed, "in_volume": reader.parts.in_volume})
        except PixelError as error:
            send(answers, {"reason": error.reason, "detail": error.detail})


def _rendering(facts: dict[str, Any]) -> Rendering:
    spec = facts.pop("fitted_to")
    return replace(Rendering(**facts), isolated=True, fitted_to=PixelSpec(**spec) if spec else None)


if __name__ == "__main__":
    run(serve)
