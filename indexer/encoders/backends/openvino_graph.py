"""Compiles OpenVINO graphs. Only this module imports openvino, and it imports no torch."""

from __future__ import annotations

import sys
from typing import Any

from indexer.encoders.backends.signal_stack import signal_stack_kept
from indexer.errors import EncoderError

BATCH_SIZE = 16
PRECISION_HINTS = {"bf16": "bf16", "fp32": "f32", "int8": "bf16"}  # of int8: of the layers that are not quantised


def compiled(graph: Any, precision: str, streams: int) -> Any:
    """The graph compiled for this processor, with so many single-thread streams."""
    options = {
        "INFERENCE_PRECISION_HINT": PRECISION_HINTS[precision],
        "NUM_STREAMS": str(streams),
        "INFERENCE_NUM_THREADS": streams,
        "ENABLE_CPU_PINNING": False,  # decoding and other processes use these cores too
    }
    with signal_stack_kept():
        return imported().Core().compile_model(graph, "CPU", options)


def imported() -> Any:
    """The openvino package. Raises EncoderError where it is not installed."""
    # openvino sends usage reports over the network through this module, whose import None blocks
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
        import openvino.frontend
    except ImportError as error:
        raise EncoderError(
            "OpenVINO is not installed. Install it (pip install 'embedding-indexer[openvino]'), "
            "or use the encoder with --device cpu."
        ) from error
    return openvino
