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
from indexer.encoders.rewritings.patches import patches_as_products

TOLERANCE = 1e-4  # of the largest output; fp32 rounding stays two orders below
Rewriting = Callable[[nn.Module], Undo]
COMMON: tuple[Rewriting, ...] = (fold_norms, patches_as_products)
UNFIT = (RuntimeError, IndexError, AttributeError, TypeError, ValueError)  # a network that reads what is gone


def rewritten(network: nn.Module, size: int, *own: Rewriting) -> nn.Module:
    """The network itself, in eval mode and changed in place; `size` is the side of the squares it sees.

    `own` are the rewritings that know the network's library.
    """
    rewritings = (*COMMON, *own)
    network.eval()
    square = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    was = _vector(network, square)
    if not _kept(network, rewritings, square, was):
        for rewriting in rewritings:  # which of them it was
            _kept(network, (rewriting,), square, was)
    return network


def _kept(network: nn.Module, rewritings: Sequence[Rewriting], square: torch.Tensor, was: torch.Tensor) -> bool:
    """Whether the network gives the same vector with all of these; if not, none of them is left."""
    undo = [step for rewriting in rewritings for step in rewriting(network)]
    if not undo:
        return True
    try:
        now = _vector(network, square)
        same = now.shape == was.shape and bool((now - was).abs().max() <= TOLERANCE * was.abs().max())
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
