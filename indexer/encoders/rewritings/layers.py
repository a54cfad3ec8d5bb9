"""What rewritings share: layers made of weights that are there, and blocks whose order is known."""

from __future__ import annotations

import torch
from torch import nn


def linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """The layer of these (outer, inner) and (outer,), which may be parts of larger ones; nothing is copied."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer


def in_order(block: nn.Module) -> list[tuple[str, nn.Module]]:
    """The named layers that a block runs one after the other, each on what the one before gave.

    Only of blocks for which that is a fact; elsewhere (a gated unit, say) the order of declaration means nothing.
    Layers that do nothing in eval mode are left out.
    """
    kind = type(block)
    known = kind is nn.Sequential or (kind.__module__, kind.__name__) == ("timm.layers.mlp", "Mlp")
    passing = (nn.Identity, nn.Dropout)
    return [(n, child) for n, child in block.named_children() if not isinstance(child, passing)] if known else []
