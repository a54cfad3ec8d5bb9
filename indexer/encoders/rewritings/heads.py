"""The projections of attention as layers of their own, cut from the one weight in which libraries keep them."""

from __future__ import annotations

from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import nn

from indexer.encoders.rewritings.layers import linear


def has_one_weight(own: object) -> TypeGuard[nn.MultiheadAttention]:
    """Whether this is torch's own attention, (n, tokens, width), with all three projections in one weight."""
    if type(own) is not nn.MultiheadAttention:
        return False
    one_weight = own.in_proj_weight is not None  # none where keys are of another width
    return own.batch_first and one_weight and own.bias_k is None and not own.add_zero_attn


class FirstAmongAll(nn.Module):
    """(n, tokens, width) → the first token's query (n, heads, 1, width / heads), and every token's key and value."""

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
    """Heads' queries (n, heads, t, d), keys and values (n, heads, s, d) → (n, t, heads · d)."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
