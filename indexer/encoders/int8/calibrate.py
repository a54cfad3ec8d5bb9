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
from indexer.encoders.int8.agreement import NEIGHBOURS, Agreement, agreement, stored_directions
from indexer.encoders.int8.quantise import (
    batched,
    layers_in_int8,
    quantised,
    quantised_but_sensitive,
    require_packages,
)
from indexer.errors import EncoderError
from indexer.types import Bool, EncoderSpec, Float32, Int64, UInt8

SAMPLE = 512  # pictures; those of one half of the images calibrate, the others measure
FEWEST = 8 * BATCH_SIZE
RETENTION_FLOOR = 0.95
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
    layers: int  # in int8
    of_layers: int


def calibrate(
    definition: EncoderDefinition, spec: EncoderSpec, pictures: UInt8, images: Int64, folder: Path, say: Stage
) -> Calibrated:
    """Quantise the encoder of `spec` on decoded `pictures` (n, size, size, 3), and store the network below `folder`.

    `images` (n,) are the numbers of the images that the pictures are of.

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
    first = halved(images)
    calibrating, measuring = batched(pictures[first]), batched(pictures[~first])
    measured = np.concatenate(measuring)
    towers = definition.build()
    fp32 = replace(spec, precision="fp32", backend="torch")
    reference = CpuBackend(towers, fp32, convolutional=definition.convolutional).embed(measured)
    transformer = not definition.convolutional
    say(f"quantising to int8 on {len(calibrating) * BATCH_SIZE} of the images")
    for ends in ENDS:
        graph = quantised(image_tower(definition.build(), spec), calibrating, transformer=transformer, ends=ends)
        found = _agreement(definition, spec, graph, measured, reference)
        if _close(found):
            break
    else:
        say(f"{stay(found)}: looking for the layers that must stay in bf16 (minutes)")
        tower = image_tower(definition.build(), spec)
        cosine = _mean_cosine(reference)
        graph = quantised_but_sensitive(tower, calibrating, measuring, cosine, transformer=transformer)
        found = _agreement(definition, spec, graph, measured, reference)
    if not _close(found):
        raise EncoderError(
            f"int8 moves the vectors of {spec.name} too far on these images: {stay(found)}, where at least "
            f"{RETENTION_FLOOR} and {COSINE_FLOOR} are asked. Use --precision bf16."
        )
    inside, layers = layers_in_int8(graph)
    digest, _ = files.write(graph, _report(spec, pictures, found, inside, layers), folder)
    return Calibrated(replace(spec, calibration=digest, network=str(folder)), found, inside, layers)


def halved(images: Int64) -> Bool:
    """Mask (n,) of about half of the pictures, given the image of each: all pictures of an image are on one side.

    The slices of a volume are so alike that one of them shows little of how others fare.
    """
    _, inverse, parts = np.unique(images, return_inverse=True, return_counts=True)
    sides = np.empty(len(parts), bool)
    ahead = 0  # pictures that the first half has more than the second
    for number, count in enumerate(parts.tolist()):
        sides[number] = ahead <= 0
        ahead += count if ahead <= 0 else -count
    mask: Bool = sides[inverse]
    return mask


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
    """Of the vectors that the table would store, with bf16 in the layers that are not quantised."""
    return agreement(OpenVinoBackend(definition.build(), spec, graph).embed(measured), reference)


def _close(found: Agreement) -> bool:
    return found.retention >= RETENTION_FLOOR and found.median_cosine >= COSINE_FLOOR


def stay(found: Agreement) -> str:
    """One line on what stays as it is in fp32."""
    return (
        f"{found.retention:.3f} of the {NEIGHBOURS} nearest neighbours stay, cosine at least "
        f"{found.lowest_cosine:.4f}, median {found.median_cosine:.4f}"
    )


def _mean_cosine(reference: Float32) -> Callable[[Float32, int], float]:
    theirs = stored_directions(reference)

    def mean_cosine(vectors: Float32, number: int) -> float:
        block = theirs[number * BATCH_SIZE : (number + 1) * BATCH_SIZE]
        return float(np.einsum("ij,ij->i", stored_directions(vectors), block).mean())

    return mean_cosine


def _report(spec: EncoderSpec, pictures: UInt8, found: Agreement, layers: int, of_layers: int) -> dict[str, Any]:
    import nncf

    return {
        "encoder": spec.name,
        "weights": spec.weights,
        "pictures": len(pictures),
        "pictures_sha256": hashlib.sha256(pictures.tobytes()).hexdigest(),
        "agreement_with_fp32": asdict(found),
        "layers_in_int8": layers,
        "layers": of_layers,
        "nncf": nncf.__version__,
        "openvino": imported().__version__,
    }
