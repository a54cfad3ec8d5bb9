"""Computes only the class token in the last block of open_clip's vision transformers."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import nn

from indexer.encoders.rewritings import Undo
from indexer.encoders.rewritings.class_token import for_class_token
from indexer.encoders.rewritings.layers import FirstAmongAll, attended, has_one_weight, linear


def clip_class_token(network: nn.Module) -> Undo:
    """Rewrite vision transformers that pool by their class token ("tok")."""
    return for_class_token(network, _blocks, _rewrite)


def _blocks(network: nn.Module) -> Any:
    if not isinstance(network, VisionTransformer):
        return None
    token = network.pool_type == "tok" and network.attn_pool is None and not network.output_tokens
    return network.transformer.resblocks if token else None


def _rewrite(last: Any) -> nn.Module | None:
    fits = type(last) is ResidualAttentionBlock and has_one_weight(last.attn)
    return _Block(last) if fits else None


class _Block(nn.Module):
    """(n, tokens, width) → (n, 1, width)."""

    def __init__(self, block: ResidualAttentionBlock) -> None:
        super().__init__()
        own = block.attn
        self.ln_1, self.ls_1, self.ln_2, self.mlp, self.ls_2 = block.ln_1, block.ls_1, block.ln_2, block.mlp, block.ls_2
        self.heads = FirstAmongAll(own.in_proj_weight, own.in_proj_bias, own.num_heads)
        self.out = linear(own.out_proj.weight, own.out_proj.bias)

    def forward(self, x: torch.Tensor, attn_mask: None = None) -> torch.Tensor:
        del attn_mask  # used by text towers only
        first = x[:, :1] + self.ls_1(self.out(attended(*self.heads(self.ln_1(x)))))
        made: torch.Tensor = first + self.ls_2(self.mlp(self.ln_2(first)))
        return made
