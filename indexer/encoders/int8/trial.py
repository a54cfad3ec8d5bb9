"""Reads, compiles and runs a stored network once in a child process, where a damaged or hostile one can do no harm.

`tried` is the parent's side; the rest is the child's, whose memory and CPU time are limited.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from indexer.encoders.backends.openvino_graph import BATCH_SIZE, compiled, imported
from indexer.errors import PixelError
from indexer.isolation.process import ChildProcess
from indexer.isolation.program import limit_cpu, read_request, run, send
from indexer.types import EncoderSpec

GRAPH, WEIGHTS = "network.xml", "network.bin"
CPU_SECONDS = 120  # ViT-L/14 takes 10
WALL_SECONDS = 600


def tried(folder: Path, spec: EncoderSpec) -> str:
    """Why the network in `folder` cannot be used for `spec`; "" where it can."""
    try:
        child = ChildProcess(__name__)
        try:
            child.send({"graph": str(folder / GRAPH), "size": spec.pixels.size, "dim": spec.dim})
            child.answer(time.monotonic() + WALL_SECONDS)
        finally:
            child.kill()
    except PixelError as error:
        return f"{error.reason}: {error.detail}".replace("decoder", "OpenVINO")
    return ""


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    send(answers, {"ready": True})
    while request := read_request(requests):
        limit_cpu(CPU_SECONDS)
        try:
            fault = _fault(**request[0])
        except (RuntimeError, MemoryError, ValueError) as error:
            fault = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        send(answers, {"reason": "OpenVINO refuses it", "detail": fault} if fault else {"fits": True})


def _fault(graph: str, size: int, dim: int) -> str:
    network: Any = imported().Core().read_model(graph)
    given, made = [BATCH_SIZE, size, size, 3], [BATCH_SIZE, dim]
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        return "it has several inputs or outputs"
    pictures = np.zeros(given, np.uint8)
    vectors = compiled(network, "int8", 1)([pictures])[0]
    return "" if list(vectors.shape) == made else f"it makes {list(vectors.shape)} numbers in place of {made}"


if __name__ == "__main__":
    run(serve)
