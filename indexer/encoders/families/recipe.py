"""What every family of encoders gives: the facts before any weight is read, and how to build the towers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from indexer.errors import EncoderError, UnknownEncoder
from indexer.types import EncoderSpec, PixelSpec

ImageTower = Callable[[torch.Tensor], torch.Tensor]  # (n, 3, size, size) normalised → (n, dim)
TextTower = Callable[[torch.Tensor], torch.Tensor]  # (n, length) token ids → (n, dim)
Tokenizer = Callable[[Sequence[str]], torch.Tensor]


@dataclass(frozen=True)
class Towers:
    """A network in fp32 on the CPU. `module` holds every parameter and buffer that the callables use."""

    module: torch.nn.Module
    vision: torch.nn.Module  # the part of it that sees pictures
    image: ImageTower
    text: TextTower | None = None
    tokenizer: Callable[[], Tokenizer] | None = None  # built when text is first embedded: it may need files
    logit_scale: float | None = None  # already exp'ed: what a cosine is multiplied with (100 for CLIP)
    logit_bias: float | None = None  # SigLIP


@dataclass(frozen=True)
class Recipe:
    """`spec` is complete but for precision, window and a fit of the user's choice."""

    spec: EncoderSpec
    build: Callable[[], Towers]
    text: bool
    convolutional: bool = False  # runs faster in channels_last


def fitted(pixels: PixelSpec, fit: str | None, window: str) -> PixelSpec:
    """The checkpoint's preprocessing with the user's `--fit` and `--window`; nothing is cut away by squash and pad."""
    if fit is None or fit == pixels.fit:
        return replace(pixels, window=window)
    if fit not in ("crop", "squash", "pad"):
        raise EncoderError(f"fit {fit!r} is none of crop, squash, pad.")
    return replace(pixels, fit=fit, window=window, resize=pixels.size)


def unknown(name: str, known: Iterable[str], *, what: str = "encoder", way_out: str) -> UnknownEncoder:
    """The error for a name nobody knows, with the nearest ones."""
    lowered = {k.lower(): k for k in known}
    near = [lowered[m] for m in difflib.get_close_matches(name.lower(), lowered, 4, cutoff=0.5)]
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    return UnknownEncoder(f"no {what} {name!r}.{hint} {way_out}")


def triple(values: Sequence[float]) -> tuple[float, float, float]:
    """Three channel constants as plain floats."""
    r, g, b = (float(v) for v in values)
    return r, g, b
