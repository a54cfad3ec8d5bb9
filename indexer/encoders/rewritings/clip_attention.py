"""Replaces nn.MultiheadAttention in open_clip's vision transformers by scaled_dot_product_attention.

In eval mode nn.MultiheadAttention is a single opaque operator: torch.compile cannot optimise it, and on a CPU neither
packed weights nor the blocked attention of backends/cpu_attention.py can be used inside it.
"""

from __future__ import annotations

from functools import partial

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from indexer.encoders.rewritings import Undo
from indexer.encoders.rewritings.layers import attended, has_one_weight, linear


def clip_attention(network: nn.Module) -> Undo:
    """Replace the self-attention of every ResidualAttentionBlock."""
    undo: Undo = []
    for block in list(network.modules()):
        if type(block) is ResidualAttentionBlock and has_one_weight(block.attn):
            undo.append(partial(setattr, block, "attn", block.attn))
            block.attn = _SelfAttention(block.attn)
    return undo


class _SelfAttention(nn.Module):
    """Signature of nn.MultiheadAttention: query = key = value (n, tokens, width) → ((n, tokens, width), None)."""

    def __init__(self, own: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = own.num_heads
        self.qkv = linear(own.in_proj_weight, own.in_proj_bias)
        self.out = linear(own.out_proj.weight, own.out_proj.bias)

    def forward(
        self, x: torch.Tensor, key: torch.Tensor, value: torch.Tensor, need_weights: bool, attn_mask: None
    ) -> tuple[torch.Tensor, None]:
        if key is not x or value is not x or need_weights or attn_mask is not None:
            raise ValueError("only unmasked self-attention is implemented")  # the rewriting is then rolled back
        n, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.out(attended(q, k, v)), None
