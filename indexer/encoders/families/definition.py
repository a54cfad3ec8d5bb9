"""What every model family provides: an encoder's spec, known before weights are read, and a function that builds it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from indexer.errors import EncoderError, UnknownEncoder
from indexer.types import EncoderSpec, PixelSpec

if TYPE_CHECKING:
    import torch

# On a CPU; a batch's activations should stay in the core's cache: measured on resnet50
BATCH_SIZE_CONVOLUTIONAL = 8

ImageTower = Callable[["torch.Tensor"], "torch.Tensor"]  # (n, 3, size, size) normalised → (n, dim)
TextTower = Callable[["torch.Tensor"], "torch.Tensor"]  # (n, length) token ids → (n, dim)
Tokenizer = Callable[[Sequence[str]], "torch.Tensor"]


@dataclass(frozen=True)
class Towers:
    """A network in fp32 on the CPU. `module` owns every parameter and buffer that the callables use."""

    module: torch.nn.Module
    vision: torch.nn.Module  # the part of `module` that computes image vectors
    image: ImageTower
    text: TextTower | None = None
    tokenizer: Callable[[], Tokenizer] | None = None  # called when text is first embedded: it may need files
    logit_scale: float | None = None  # exponentiated: factor from cosine to logit (100 for CLIP)
    logit_bias: float | None = None  # SigLIP's


@dataclass(frozen=True)
class EncoderDefinition:
    """An encoder before its weights are read. In `spec`, precision, window and fit are still the defaults."""

    spec: EncoderSpec
    build: Callable[[], Towers]
    text: bool
    convolutional: bool = False  # runs faster in channels_last


def fitted(pixels: PixelSpec, fit: str | None, window: str) -> PixelSpec:
    """The checkpoint's preprocessing with `--fit` and `--window` applied. squash and pad keep the whole picture."""
    if fit is None or fit == pixels.fit:
        return replace(pixels, window=window)
    if fit not in ("crop", "squash", "pad"):
        raise EncoderError(f"fit {fit!r} is none of crop, squash, pad.")
    return replace(pixels, fit=fit, window=window, resize=pixels.size)


def with_options(plain: EncoderSpec, spec: EncoderSpec) -> EncoderSpec:
    """An encoder's spec before any option, with those options of `spec` that do not depend on a device."""
    fit = None if plain.pixels.fit == spec.pixels.fit else spec.pixels.fit
    pixels = fitted(plain.pixels, fit, spec.pixels.window)
    pixels = replace(pixels, plane=spec.pixels.plane, channels=spec.pixels.channels)
    return replace(
        plain, precision=spec.precision, pixels=pixels, source=spec.source, calibration=spec.calibration,
        network=spec.network,
    )  # fmt: skip


def unknown(name: str, known: Iterable[str], *, what: str = "encoder", way_out: str) -> UnknownEncoder:
    """An UnknownEncoder error that suggests the closest known names."""
    lowered = {k.lower(): k for k in known}
    near = [lowered[m] for m in difflib.get_close_matches(name.lower(), lowered, 4, cutoff=0.5)]
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    return UnknownEncoder(f"no {what} {name!r}.{hint} {way_out}")


def triple(values: Sequence[float]) -> tuple[float, float, float]:
    """Three per-channel constants (R, G, B) as Python floats."""
    r, g, b = (float(v) for v in values)
    return r, g, b
