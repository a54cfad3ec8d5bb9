"""Shared parts of the rewritings: linear layers over existing weights, layers in execution order, attention."""

from __future__ import annotations

from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import nn


def linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """A linear layer over `weight` (outer, inner) and `bias` (outer,), which may be views; nothing is copied."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer


def in_order(block: nn.Module) -> list[tuple[str, nn.Module]]:
    """The named layers of a block that runs each on the output of the one before; [] for other blocks.

    Only nn.Sequential and timm's Mlp are known to do so; in others (a gated unit) the order of declaration need not be
    the order of execution. Layers without effect in eval mode are left out.
    """
    kind = type(block)
    known = kind is nn.Sequential or (kind.__module__, kind.__name__) == ("timm.layers.mlp", "Mlp")
    passing = (nn.Identity, nn.Dropout)
    return [(n, child) for n, child in block.named_children() if not isinstance(child, passing)] if known else []


def has_one_weight(own: object) -> TypeGuard[nn.MultiheadAttention]:
    """Whether `own` is nn.MultiheadAttention over (n, tokens, width) with the three projections in one weight."""
    if type(own) is not nn.MultiheadAttention:
        return False
    one_weight = own.in_proj_weight is not None  # None where keys have another width
    return own.batch_first and one_weight and own.bias_k is None and not own.add_zero_attn


class FirstAmongAll(nn.Module):
    """(n, tokens, width) → query (n, heads, 1, width / heads) of the first token, keys and values of every token."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, heads: int) -> None:
        super().__init__()
        width = len(weight) // 3
        self.heads = heads
        self.query = linear(weight[:width], None if bias is None else bias[:width])
        self.both = linear(weight[width:], None if bias is None else bias[width:])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        n, tokens, _ = x.shape
        k, v = self.both(x).view(n, tokens, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.query(x[:, :1]).view(n, 1, self.heads, -1).transpose(1, 2), k, v


def attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention of queries (n, heads, t, d) over keys and values (n, heads, s, d) → (n, t, heads · d)."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
