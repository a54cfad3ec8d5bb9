"""Networks rewritten for speed before they are cast: the same map, with fewer passes over less.

Each rewriting knows a pattern by how libraries lay out their modules, which is a convention and no promise. So the
network is run before and after on one random square, and what does not run or does not give the same vector is taken
back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from indexer.encoders.rewritings import Undo
from indexer.encoders.rewritings.norms import fold_norms
from indexer.encoders.rewritings.packed import can_pack, packed_linears
from indexer.encoders.rewritings.patches import patches_as_products
from indexer.encoders.rewritings.quick_gelu import quick_gelu_as_silu

TOLERANCE = 1e-4  # of the largest output; fp32 rounding stays two orders below
TOLERANCE_BF16 = 0.05  # the same in bf16, where each layer rounds to 1 in 256; another map is off by the whole
Rewriting = Callable[[nn.Module], Undo]
COMMON: tuple[Rewriting, ...] = (fold_norms, patches_as_products, quick_gelu_as_silu)
UNFIT = (RuntimeError, IndexError, AttributeError, TypeError, ValueError)  # a network that reads what is gone


def rewritten(network: nn.Module, size: int, *own: Rewriting) -> nn.Module:
    """The network itself, in eval mode and changed in place; `size` is the side of the squares it sees.

    `own` are the rewritings that know the network's library.
    """
    network.eval()
    _rewrite(network, size, (*COMMON, *own), TOLERANCE)
    return network


def packed(network: nn.Module, size: int) -> None:
    """The same in place for a network that is in bf16 on the CPU, and stays there; nothing where that gains nothing."""
    if can_pack():
        _rewrite(network, size, (packed_linears,), TOLERANCE_BF16)


def _rewrite(network: nn.Module, size: int, rewritings: Sequence[Rewriting], tolerance: float) -> None:
    dtype = next((p.dtype for p in network.parameters()), torch.float32)
    square = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(dtype)
    was = _vector(network, square)
    if not _kept(network, rewritings, square, was, tolerance) and len(rewritings) > 1:
        for rewriting in rewritings:  # which of them it was
            _kept(network, (rewriting,), square, was, tolerance)


def _kept(
    network: nn.Module, rewritings: Sequence[Rewriting], square: torch.Tensor, was: torch.Tensor, tolerance: float
) -> bool:
    """Whether the network gives the same vector with all of these; if not, none of them is left."""
    undo = [step for rewriting in rewritings for step in rewriting(network)]
    if not undo:
        return True
    try:
        now = _vector(network, square)
        same = now.shape == was.shape and bool((now - was).abs().max() <= tolerance * was.abs().max())
    except UNFIT:
        same = False
    if not same:
        for step in reversed(undo):
            step()
    return same


def _vector(network: nn.Module, square: torch.Tensor) -> torch.Tensor:
    """Of the whole square; some networks give their tokens beside it."""
    with torch.inference_mode():
        out = network(square)
        vector: torch.Tensor = out[0] if isinstance(out, tuple) else out
        return vector
