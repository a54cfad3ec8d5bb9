"""Loads encoders: from a name and weights, or from the spec stored in a table."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from indexer.encoders.families.catalogue import ENTRIES, entry
from indexer.errors import EncoderError, EncoderMismatch, WeightsNotFound
from indexer.types import EncoderSpec, UInt8

if TYPE_CHECKING:
    from indexer.encoders.encoder import LoadedEncoder
    from indexer.encoders.families.definition import EncoderDefinition
    from indexer.encoders.families.weights import WeightsRequest

PRECISIONS = ("bf16", "fp16", "fp32", "int8")
BUNDLED = "efficientnet-lite0"
GPU_DECODER = "gpu-1"  # PixelSpec.decoder for JPEG decoded on a GPU; the number is the version of that decode path


def load(
    name: str,
    *,
    weights: str | None = None,
    precision: str = "bf16",
    device: str = "auto",
    fit: str | None = None,
    window: str = "file",
    decoder: str = "cpu",
    compiled: bool = True,
) -> LoadedEncoder:
    """Load the encoder `name` onto a device. Downloads published weights that are not on this machine.

    `weights`: None (the name's default), a published tag, a weights file, or "random:<seed>" ("random" is seed 0).
    `precision` of weights and arithmetic: bf16 | fp16 | fp32. `device`: auto | cpu | openvino | cuda | cuda:N.
    `fit`: crop | squash | pad, overrides the checkpoint's preprocessing. `decoder` of JPEG: cpu | gpu (needs CUDA).
    `compiled`: use torch.compile, on GPUs only.
    int8 is calibrated on images first (`pipeline.int8`). Raises UnknownEncoder, WeightsNotFound, WeightsMismatch,
    EncoderError.
    """
    if precision == "int8":
        raise EncoderError("int8 is calibrated on a table's own images: index them with --precision int8.")
    definition, spec = described(
        name, weights=weights, precision=precision, device=device, fit=fit, window=window, decoder=decoder
    )
    return ready(definition, spec, device, compiled=compiled)


def described(
    name: str, *, weights: str | None, precision: str, device: str, fit: str | None, window: str, decoder: str
) -> tuple[EncoderDefinition, EncoderSpec]:
    """The encoder that `load` would load, before its weights are read. Raises as `load` does."""
    from indexer.encoders.backends.device import OPENVINO, require_decoder
    from indexer.encoders.families.definition import fitted
    from indexer.encoders.families.weights import parse

    if precision not in PRECISIONS:
        raise EncoderError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}.")
    require_decoder(decoder, device)
    request = parse(weights)
    definition = find(name, request)
    pixels = fitted(definition.spec.pixels, fit, window)
    pixels = replace(pixels, decoder=GPU_DECODER) if decoder == "gpu" else pixels
    if precision == "int8" and device not in ("auto", "cpu", OPENVINO):
        raise EncoderError(f"int8 runs on the CPU, not on {device}. Use --device cpu, or another --precision.")
    backend = OPENVINO if device == OPENVINO or precision == "int8" else definition.spec.backend
    spec = replace(definition.spec, precision=precision, pixels=pixels, backend=backend)
    if request.kind == "file" or name.startswith("local-dir:"):
        spec = replace(spec, source=request.value if request.kind == "file" else name.removeprefix("local-dir:"))
    return definition, spec


def load_spec(
    spec: EncoderSpec, *, weights: str | None = None, device: str = "auto", download: bool = False
) -> LoadedEncoder:
    """Load the encoder that a table's `spec` describes, with the same fingerprint. Not compiled: queries are few.

    `weights`: the file or directory, where the spec holds its hash and it is no longer at the path stored there.
    `download`: fetch published weights that are not on this machine. Off by default, since a spec comes from a table,
    which somebody else may have made. Raises WeightsNotFound, EncoderMismatch where the weights found are others.
    """
    from indexer.encoders.backends.device import OPENVINO
    from indexer.encoders.families.definition import with_options
    from indexer.encoders.families.weights import parse

    definition = find(spec.name, parse(_stored_weights(spec, weights), download=download))
    found = with_options(definition.spec, spec)
    if spec.pixels.decoder == GPU_DECODER:
        found = replace(found, pixels=replace(found.pixels, decoder=GPU_DECODER))
    if OPENVINO in (device, spec.backend):
        found = replace(found, backend=OPENVINO)
    if found.fingerprint != spec.fingerprint:
        raise EncoderMismatch(
            stored=f"{spec.name} {spec.fingerprint}", given=f"{found.fingerprint} ({spec.differences(found)})"
        )
    return ready(definition, found, device, compiled=False)


def precision_check(encoder: LoadedEncoder, pictures: UInt8) -> float:
    """Lowest cosine similarity, over `pictures` (n, size, size, 3), between this encoder's vectors and fp32 ones."""
    reference = encoder.in_fp32()
    a, b = (e.embed(pictures).astype(np.float64) for e in (encoder, reference))
    del reference
    if encoder.device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()  # of its weights and sums: others may need the memory
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.min(np.einsum("ij,ij->i", a, b) / norms))


def find(name: str, request: WeightsRequest) -> EncoderDefinition:
    """The facts of an encoder, without reading its weights. Raises UnknownEncoder with the nearest names."""
    from indexer.encoders.families import weights

    if (short := entry(name)) and short.name != name:
        if request.kind == "default" and short.weights:
            request = weights.WeightsRequest("tag", short.weights, request.download)
        name = short.name
    family, _, rest = name.partition(":")
    if name == BUNDLED:
        return _bundled(request)
    if family == "timm":
        from indexer.encoders.families import timm_models

        return timm_models.definition(rest, request)
    if family == "torchvision":
        from indexer.encoders.families import torchvision_resnets

        return torchvision_resnets.definition(rest, request)
    if family == "open_clip":
        from indexer.encoders.families import openclip

        return openclip.definition(rest, request)
    if family in ("hf-hub", "local-dir"):
        from indexer.encoders.families import repositories

        chosen = repositories.hub_definition if family == "hf-hub" else repositories.directory_definition
        return chosen(rest, request)
    return _bare(name, request)


def _bundled(request: WeightsRequest) -> EncoderDefinition:
    """EfficientNet-Lite0 with its own weights; with others as timm builds it, whose import takes as long as torch's."""
    own = next(listed for listed in ENTRIES if listed.name == BUNDLED)
    if request.kind in ("file", "random"):
        from indexer.encoders.families import timm_models

        return timm_models.bundled_architecture(own, request)
    from indexer.encoders.families import definition, efficientnet_lite0

    if request.kind == "tag" and request.value != own.weights:
        what = f"weights tag of {BUNDLED}"
        raise definition.unknown(request.value, [own.weights], what=what, way_out="It needs no --weights.")
    return efficientnet_lite0.definition(own)


def _bare(name: str, request: WeightsRequest) -> EncoderDefinition:
    """A model named as its library names it, without the family prefix."""
    from indexer.encoders.families import definition, openclip, timm_models, torchvision_resnets

    if name in torchvision_resnets.known():
        return torchvision_resnets.definition(name, request)
    if openclip.registered(name):
        return openclip.definition(name, request)
    if timm_models.known(name):
        return timm_models.definition(name, request)
    names = [e.alias for e in ENTRIES] + [*torchvision_resnets.known(), *openclip.known(), *timm_models.names()]
    raise definition.unknown(name, names, way_out="`indexer encoders` lists them.")


def _stored_weights(spec: EncoderSpec, weights: str | None) -> str | None:
    """The value of `weights` that `load` needs to rebuild this spec. Raises WeightsNotFound for an unknown file."""
    if not spec.weights.startswith("sha256:"):
        return weights or spec.weights or None
    given = weights or spec.source
    if not given:
        raise WeightsNotFound(
            f"{spec.name} was loaded from a file ({spec.weights[:19]}…). Say where it is: --weights FILE."
        )
    return given


def ready(definition: EncoderDefinition, spec: EncoderSpec, device: str, *, compiled: bool) -> LoadedEncoder:
    """The encoder of `spec`, whose facts are `definition`'s, with its weights read, on a device."""
    from indexer.encoders.backends.cpu import CpuBackend
    from indexer.encoders.backends.device import OPENVINO, devices
    from indexer.encoders.encoder import LoadedEncoder

    chosen = devices(device)
    if spec.backend == OPENVINO:
        return _by_openvino(definition, spec, device)
    towers = definition.build()
    if not chosen:
        return LoadedEncoder(definition, spec, towers, CpuBackend(towers, spec, convolutional=definition.convolutional))
    from indexer.encoders.backends.cuda import CudaLane
    from indexer.encoders.backends.slots import SlottedBackend, largest_batch

    replicas = [towers, *(definition.build() for _ in chosen[1:])]
    lanes = [
        CudaLane(t, spec, gpu, channels_last=definition.convolutional, compiled=compiled)
        for t, gpu in zip(replicas, chosen, strict=True)
    ]
    return LoadedEncoder(
        definition, spec, towers, SlottedBackend(lanes, dim=spec.dim, largest=largest_batch(spec.pixels.size))
    )


def _by_openvino(definition: EncoderDefinition, spec: EncoderSpec, device: str) -> LoadedEncoder:
    from indexer.encoders.backends.openvino_cpu import OpenVinoBackend
    from indexer.encoders.backends.openvino_graph import imported
    from indexer.encoders.encoder import LoadedEncoder

    if device.startswith("cuda"):
        raise EncoderError(
            f"this table's vectors were computed by OpenVINO on a CPU, not on {device}. Use --device auto."
        )
    imported()  # reports a missing package before the weights are read
    graph = None
    if spec.precision == "int8":
        from indexer.encoders.int8.files import read

        graph = read(spec)
    towers = definition.build()
    return LoadedEncoder(definition, spec, towers, OpenVinoBackend(towers, spec, graph))
