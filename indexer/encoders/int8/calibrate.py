"""Calibrates an int8 image tower on a sample of the user's images, and refuses one that moves the vectors too far."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from indexer.encoders.backends.cpu import CpuBackend
from indexer.encoders.backends.openvino_cpu import OpenVinoBackend, image_tower
from indexer.encoders.backends.openvino_graph import BATCH_SIZE, imported
from indexer.encoders.families.definition import EncoderDefinition
from indexer.encoders.int8 import files
from indexer.encoders.int8.agreement import NEIGHBOURS, Agreement, agreement
from indexer.encoders.int8.quantise import (
    batched,
    layers_in_int8,
    quantised,
    quantised_but_sensitive,
    require_packages,
)
from indexer.errors import EncoderError
from indexer.types import EncoderSpec, Float32, UInt8
from indexer.vectors import unit_rows

SAMPLE = 512  # pictures; every second one calibrates, the others measure
FEWEST = 8 * BATCH_SIZE
RETENTION_FLOOR = 0.95
# Of what bf16 keeps, where that is the lower floor: of an encoder whose vectors lie close together (of random weights,
# or collapsed) few neighbours stay in any short format, and bf16 is what a user would take instead. resnet50 with
# random weights on brain slices: int8 .864, bf16 .882 by OpenVINO and .821 by torch
OF_BF16 = 0.97
COSINE_FLOOR = 0.99  # of the median
# Layers at either end that stay in bf16, tried in turn. Their rounding meets few channels or the vector itself: the
# bundled encoder's retention rises from .914 to .958 by two of them, and each try takes a tenth of NNCF's own search
ENDS = (0, 2, 4)

Stage = Callable[[str], None]  # gets one line on what is being done


@dataclass(frozen=True)
class Calibrated:
    """A spec whose `calibration` and `network` are set, and how its vectors agree with fp32 on the sample."""

    spec: EncoderSpec
    agreement: Agreement
    of_bf16: Agreement | None  # measured only where int8 alone is below RETENTION_FLOOR
    layers: int  # in int8
    of_layers: int


def calibrate(
    definition: EncoderDefinition, spec: EncoderSpec, pictures: UInt8, folder: Path, say: Stage
) -> Calibrated:
    """Quantise the encoder of `spec` on decoded `pictures` (n, size, size, 3), and store the network below `folder`.

    Raises EncoderError for fewer than FEWEST pictures, and where the quantised vectors are below a floor even with the
    sensitive layers left in bf16.
    """
    require_packages()
    if not has_int8_products():
        raise EncoderError(
            "this processor has no int8 dot products (VNNI, AMX, or Arm's dotprod): int8 would not be faster. "
            "Use --precision bf16 or fp32."
        )
    if len(pictures) < FEWEST:
        raise EncoderError(
            f"int8 is calibrated on at least {FEWEST} images, and {len(pictures)} could be read. Use --precision bf16."
        )
    calibrating, measuring = batched(pictures[::2]), batched(pictures[1::2])
    measured = np.concatenate(measuring)
    towers = definition.build()
    fp32 = replace(spec, precision="fp32", backend="torch")
    reference = CpuBackend(towers, fp32, convolutional=definition.convolutional).embed(measured)
    transformer = not definition.convolutional
    say(f"quantising to int8 on {len(calibrating) * BATCH_SIZE} of the images")
    floor, of_bf16 = RETENTION_FLOOR, None
    for ends in ENDS:
        graph = quantised(image_tower(definition.build(), spec), calibrating, transformer=transformer, ends=ends)
        found = _agreement(definition, spec, graph, measured, reference)
        if found.retention < floor and of_bf16 is None:
            of_bf16 = _agreement(definition, replace(spec, precision="bf16"), None, measured, reference)
            floor = min(floor, OF_BF16 * of_bf16.retention)
        if _close(found, floor):
            break
    else:
        say(f"{stay(found, of_bf16)}: looking for the layers that must stay in bf16 (minutes)")
        tower = image_tower(definition.build(), spec)
        cosine = _mean_cosine(reference)
        graph = quantised_but_sensitive(tower, calibrating, measuring, cosine, transformer=transformer)
        found = _agreement(definition, spec, graph, measured, reference)
    if not _close(found, floor):
        raise EncoderError(
            f"int8 moves the vectors of {spec.name} too far on these images: {stay(found, of_bf16)}, where at least "
            f"{floor:.3g} and {COSINE_FLOOR} are asked. Use --precision bf16."
        )
    inside, layers = layers_in_int8(graph)
    made = Calibrated(replace(spec, network=str(folder)), found, of_bf16, inside, layers)
    digest, _ = files.write(graph, _report(made, pictures), folder)
    return replace(made, spec=replace(made.spec, calibration=digest))


def has_int8_products() -> bool:
    """Whether this processor multiplies and sums int8 in one instruction. True where its features cannot be read."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return True
    return bool(words & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})


def _agreement(
    definition: EncoderDefinition, spec: EncoderSpec, graph: Any, measured: UInt8, reference: Float32
) -> Agreement:
    """Of the vectors that the table would store, with bf16 in the layers that are not quantised; without a graph none
    is.
    """
    return agreement(OpenVinoBackend(definition.build(), spec, graph).embed(measured), reference)


def _close(found: Agreement, floor: float) -> bool:
    return found.retention >= floor and found.median_cosine >= COSINE_FLOOR


def stay(found: Agreement, of_bf16: Agreement | None) -> str:
    """One line on what stays as it is in fp32."""
    beside = "" if of_bf16 is None else f" (in bf16 {of_bf16.retention:.3f})"
    return (
        f"{found.retention:.3f} of the {NEIGHBOURS} nearest neighbours stay{beside}, cosine at least "
        f"{found.lowest_cosine:.4f}, median {found.median_cosine:.4f}"
    )


def _mean_cosine(reference: Float32) -> Callable[[Float32, int], float]:
    theirs = unit_rows(reference)[0]

    def mean_cosine(vectors: Float32, number: int) -> float:
        mine = unit_rows(vectors)[0]
        block = theirs[number * BATCH_SIZE : (number + 1) * BATCH_SIZE]
        return float(np.einsum("ij,ij->i", mine, block, dtype=np.float64).mean())

    return mean_cosine


def _report(made: Calibrated, pictures: UInt8) -> dict[str, Any]:
    import nncf

    return {
        "encoder": made.spec.name,
        "weights": made.spec.weights,
        "pictures": len(pictures),
        "pictures_sha256": hashlib.sha256(pictures.tobytes()).hexdigest(),
        "agreement_with_fp32": asdict(made.agreement),
        "agreement_of_bf16": None if made.of_bf16 is None else asdict(made.of_bf16),
        "layers_in_int8": made.layers,
        "layers": made.of_layers,
        "nncf": nncf.__version__,
        "openvino": imported().__version__,
    }
