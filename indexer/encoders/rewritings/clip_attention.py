"""The attention of open_clip's vision transformers through torch's one function for it.

open_clip calls nn.MultiheadAttention, which in eval mode hides the whole layer behind one operator of torch's own: no
compiler sees into it, and on a CPU neither packed weights nor a faster attention can be put there.
"""

from __future__ import annotations

from functools import partial

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from indexer.encoders.rewritings import Undo
from indexer.encoders.rewritings.layers import attended, has_one_weight, linear


def clip_attention(network: nn.Module) -> Undo:
    """Replace it in every block in which a picture's tokens attend to each other."""
    undo: Undo = []
    for block in list(network.modules()):
        if type(block) is ResidualAttentionBlock and has_one_weight(block.attn):
            undo.append(partial(setattr, block, "attn", block.attn))
            block.attn = _SelfAttention(block.attn)
    return undo


class _SelfAttention(nn.Module):
    """(n, tokens, width) three times the same → (n, tokens, width), and None for the weights."""

    def __init__(self, own: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = own.num_heads
        self.qkv = linear(own.in_proj_weight, own.in_proj_bias)
        self.out = linear(own.out_proj.weight, own.out_proj.bias)

    def forward(
        self, x: torch.Tensor, key: torch.Tensor, value: torch.Tensor, need_weights: bool, attn_mask: None
    ) -> tuple[torch.Tensor, None]:
        if key is not x or value is not x or need_weights or attn_mask is not None:
            raise ValueError("more than self-attention is asked for")  # the rewriting is then taken back
        n, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.out(attended(q, k, v)), None
