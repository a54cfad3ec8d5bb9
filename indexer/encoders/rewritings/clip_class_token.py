"""The class token alone in the last block of open_clip's vision transformers."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import nn

from indexer.encoders.rewritings import Undo
from indexer.encoders.rewritings.class_token import attend, for_class_token, heads


def clip_class_token(network: nn.Module) -> Undo:
    """Where the vector is made of the class token."""
    return for_class_token(network, _blocks, _rewrite)


def _blocks(network: nn.Module) -> Any:
    if not isinstance(network, VisionTransformer):
        return None
    token = network.pool_type == "tok" and network.attn_pool is None and not network.output_tokens
    return network.transformer.resblocks if token else None


def _rewrite(last: Any) -> nn.Module | None:
    fits = type(last) is ResidualAttentionBlock and last.attn.batch_first and last.attn.in_proj_weight is not None
    return _Block(last) if fits else None


class _Block(nn.Module):
    """(n, tokens, width) → (n, 1, width)."""

    def __init__(self, block: ResidualAttentionBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor, attn_mask: None = None) -> torch.Tensor:
        del attn_mask  # that of text; pictures have none
        block, own = self.block, self.block.attn
        q, k, v = heads(block.ln_1(x), own.in_proj_weight, own.in_proj_bias, own.num_heads)
        first = x[:, :1] + block.ls_1(own.out_proj(attend(q, k, v)))
        made: torch.Tensor = first + block.ls_2(block.mlp(block.ln_2(first)))
        return made
