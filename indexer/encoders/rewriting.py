"""Networks rewritten for speed before they are cast: the same map, with fewer passes over less.

Each rewriting knows a pattern by how libraries lay out their modules, which is a convention and no promise. So the
network is run before and after on one random square, and a rewriting that does not give the same vector is taken back.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from indexer.encoders.rewritings.class_token import last_block_for_class_token
from indexer.encoders.rewritings.norms import fold_norms
from indexer.encoders.rewritings.patches import patches_as_products

TOLERANCE = 1e-4  # of the largest output; fp32 rounding stays two orders below
REWRITINGS = (fold_norms, patches_as_products, last_block_for_class_token)


def rewritten(network: nn.Module, size: int) -> nn.Module:
    """The network itself, in eval mode and changed in place; `size` is the side of the squares it sees."""
    network.eval()
    square = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    was: torch.Tensor | None = None
    for rewriting in REWRITINGS:
        was = _vector(network, square) if was is None else was
        undo = rewriting(network)
        if undo and not _agree(_vector(network, square), was):
            _take_back(undo)
    return network


def _vector(network: nn.Module, square: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        vector: torch.Tensor = network(square)
        return vector


def _agree(now: torch.Tensor, was: torch.Tensor) -> bool:
    return now.shape == was.shape and bool((now - was).abs().max() <= TOLERANCE * was.abs().max())


def _take_back(undo: list[Callable[[], None]]) -> None:
    for step in reversed(undo):
        step()
