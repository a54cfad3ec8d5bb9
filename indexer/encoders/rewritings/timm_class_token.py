"""The class token alone in the last block of timm's vision transformers, also of those inside open_clip's models."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import nn

from indexer.encoders.rewritings import Undo
from indexer.encoders.rewritings.class_token import attend, for_class_token, heads


def timm_class_token(network: nn.Module) -> Undo:
    """Where the vector is made of the class token."""
    return for_class_token(network, _blocks, _rewrite)


def _blocks(network: nn.Module) -> Any:
    if type(network) is not VisionTransformer:  # a distilled one reads a second token
        return None
    return network.blocks if network.global_pool == "token" and network.attn_pool is None else None


def _rewrite(last: Any) -> nn.Module | None:
    fits = type(last) is Block and type(last.attn) is Attention and getattr(last.attn, "gate", None) is None
    return _Block(last) if fits else None


class _Block(nn.Module):
    """(n, tokens, width) → (n, 1, width)."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        block, own = self.block, self.block.attn
        q, k, v = heads(block.norm1(x), own.qkv.weight, own.qkv.bias, own.num_heads)
        seen = own.norm(attend(own.q_norm(q), own.k_norm(k), v))
        first = x[:, :1] + block.ls1(own.proj(seen))
        made: torch.Tensor = first + block.ls2(block.mlp(block.norm2(first)))
        return made
