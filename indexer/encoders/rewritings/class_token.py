"""A vision transformer's last block for the class token alone: no other token of it is ever read.

Keys and values still come from every token, so the vector is the same; of the block's arithmetic a sixth is left, which
is 7 % less for a network of twelve blocks. What a library's block looks like says its own module beside this one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from indexer.encoders.rewritings import Undo


def for_class_token(
    network: nn.Module, blocks_of: Callable[[nn.Module], Any], rewrite: Callable[[Any], nn.Module | None]
) -> Undo:
    """Replace the last of each part's blocks; both functions give None where a library's pattern does not fit."""
    undo: Undo = []
    for part in list(network.modules()):
        blocks = blocks_of(part)
        if blocks is None or not len(blocks) or (made := rewrite(last := blocks[-1])) is None:
            continue
        place = str(len(blocks) - 1)
        setattr(blocks, place, made)
        undo.append(partial(setattr, blocks, place, last))
    return undo


def heads(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The first token's query (n, heads, 1, width / heads), and every token's key and value.

    By torch's own module this takes a tenfold of the time where the queries are other rows than the keys.
    """
    n, tokens, _ = x.shape
    width = len(weight) // 3
    query = F.linear(x[:, :1], weight[:width], None if bias is None else bias[:width])
    both = F.linear(x, weight[width:], None if bias is None else bias[width:])
    k, v = both.view(n, tokens, 2, heads, -1).permute(2, 0, 3, 1, 4)
    return query.view(n, 1, heads, -1).transpose(1, 2), k, v


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """(n, 1, width)"""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
