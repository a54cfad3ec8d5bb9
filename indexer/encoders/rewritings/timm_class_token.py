"""Computes only the class token in the last block of timm's vision transformers, also inside open_clip's models."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import nn

from indexer.encoders.rewritings import Undo
from indexer.encoders.rewritings.class_token import for_class_token
from indexer.encoders.rewritings.layers import FirstAmongAll, attended


def timm_class_token(network: nn.Module) -> Undo:
    """Rewrite vision transformers that pool by their class token ("token")."""
    return for_class_token(network, _blocks, _rewrite)


def _blocks(network: nn.Module) -> Any:
    if type(network) is not VisionTransformer:  # subclasses (distilled models) read a second token
        return None
    return network.blocks if network.global_pool == "token" and network.attn_pool is None else None


def _rewrite(last: Any) -> nn.Module | None:
    fits = type(last) is Block and type(last.attn) is Attention and getattr(last.attn, "gate", None) is None
    return _Block(last) if fits else None


class _Block(nn.Module):
    """(n, tokens, width) → (n, 1, width)."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        own = block.attn
        self.norm1, self.ls1, self.norm2, self.mlp, self.ls2 = block.norm1, block.ls1, block.norm2, block.mlp, block.ls2
        self.heads = FirstAmongAll(own.qkv.weight, own.qkv.bias, own.num_heads)
        self.q_norm, self.k_norm, self.norm, self.proj = own.q_norm, own.k_norm, own.norm, own.proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.heads(self.norm1(x))
        seen = self.norm(attended(self.q_norm(q), self.k_norm(k), v))
        first = x[:, :1] + self.ls1(self.proj(seen))
        made: torch.Tensor = first + self.ls2(self.mlp(self.norm2(first)))
        return made
