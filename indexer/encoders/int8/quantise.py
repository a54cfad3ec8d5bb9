"""Quantises an image tower to int8 with NNCF. Only this module imports nncf."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from indexer.encoders.backends.openvino_graph import BATCH_SIZE, imported
from indexer.encoders.backends.signal_stack import signal_stack_kept
from indexer.errors import EncoderError
from indexer.types import Float32, UInt8

MOST_DROP = 0.004  # of the mean cosine to fp32: layers are left in bf16, the most sensitive first, until it holds
_RANKED = 4  # batches on which the layers are ranked

Batches = Sequence[UInt8]  # of BATCH_SIZE pictures each
MeanCosine = Callable[[Float32, int], float]  # of a batch's vectors, by its number, to the fp32 ones


def require_packages() -> None:
    """Raise EncoderError where OpenVINO or NNCF is not installed."""
    imported()
    _nncf()


def quantised(graph: Any, batches: Batches, *, transformer: bool, ends: int = 0) -> Any:
    """Every layer that can be in int8: weights per channel, activations by ranges measured on `batches`.

    The first and last `ends` layers stay as they are.
    """
    nncf = _nncf()
    names = [layer.get_friendly_name() for layer in _layers(graph)]
    outer = dict.fromkeys(names[:ends] + names[len(names) - ends :])
    with _silent(), signal_stack_kept():
        return nncf.quantize(
            graph,
            nncf.Dataset(batches),
            subset_size=len(batches),
            ignored_scope=nncf.IgnoredScope(names=list(outer)),
            **_common(transformer),
        )


def quantised_but_sensitive(
    graph: Any, batches: Batches, measured: Batches, mean_cosine: MeanCosine, *, transformer: bool
) -> Any:
    """As `quantised`, without the layers whose rounding moves the vectors of `measured` most. Takes minutes."""
    nncf = _nncf()
    ranked = nncf.AdvancedAccuracyRestorerParameters(ranking_subset_size=_RANKED)
    numbered = [(number, batch) for number, batch in enumerate(measured)]

    def validate(model: Any, data: Iterable[tuple[int, UInt8]]) -> tuple[float, list[float]]:
        cosines = [mean_cosine(model([batch])[0], number) for number, batch in data]
        return float(np.mean(cosines)), cosines

    with _silent(), signal_stack_kept():
        return nncf.quantize_with_accuracy_control(
            graph,
            nncf.Dataset(batches),
            nncf.Dataset(numbered),
            validation_fn=validate,
            max_drop=MOST_DROP,
            drop_type=nncf.DropType.ABSOLUTE,
            subset_size=len(batches),
            advanced_accuracy_restorer_parameters=ranked,
            **_common(transformer),
        )


def layers_in_int8(graph: Any) -> tuple[int, int]:
    """The number of convolutions and matrix products whose input is quantised, and of all of them."""
    inputs = [layer.input_value(0).get_node().get_type_name() for layer in _layers(graph)]
    return sum(name == "FakeQuantize" for name in inputs), len(inputs)


def _layers(graph: Any) -> list[Any]:
    """The convolutions and matrix products, in order."""
    return [op for op in graph.get_ordered_ops() if op.get_type_name() in ("Convolution", "GroupConvolution", "MatMul")]


def batched(pictures: UInt8) -> list[UInt8]:
    """Full batches of (n, size, size, 3) pictures; what is left over at the end is left out."""
    return [pictures[i : i + BATCH_SIZE] for i in range(0, len(pictures) - BATCH_SIZE + 1, BATCH_SIZE)]


def _common(transformer: bool) -> dict[str, Any]:
    nncf = _nncf()
    # mixed: asymmetric ranges for activations. On EfficientNet-Lite0 4.1 ms an image for 3.8, cosine .977 for .974
    return {
        "preset": nncf.QuantizationPreset.MIXED,
        "model_type": nncf.ModelType.TRANSFORMER if transformer else None,
    }


def _nncf() -> Any:
    imported()  # blocks the usage reports that nncf would send through the same module
    try:
        with _silent():
            import nncf
            import nncf.torch  # OpenVINO's conversion would import it otherwise, with its remarks
    except ImportError as error:
        raise EncoderError(
            "NNCF, which quantises to int8, is not installed. Install it (pip install 'embedding-indexer[int8]'), "
            "or use --precision bf16."
        ) from error
    return nncf


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without NNCF's progress bars on stdout, which is for data, its remarks, and torch's on a CUDA compiler."""
    loggers = [logging.getLogger(name) for name in ("nncf", "torch.utils.cpp_extension")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
