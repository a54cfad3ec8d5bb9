"""Computes a vision transformer's last block for the class token only, where no other output token is read.

Keys and values are still computed from every token, so the vector is unchanged. A sixth of the block's arithmetic
remains, which saves 7 % of a network of twelve blocks. The modules *_class_token hold each library's block.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from indexer.encoders.rewritings import Undo


def for_class_token(
    network: nn.Module, blocks_of: Callable[[nn.Module], Any], rewrite: Callable[[Any], nn.Module | None]
) -> Undo:
    """Replace the last block of each submodule for which `blocks_of` gives a list of blocks.

    `blocks_of` and `rewrite` return None where the library's pattern does not match.
    """
    undo: Undo = []
    for part in list(network.modules()):
        blocks = blocks_of(part)
        if blocks is None or not len(blocks) or (made := rewrite(last := blocks[-1])) is None:
            continue
        place = str(len(blocks) - 1)
        setattr(blocks, place, made)
        undo.append(partial(setattr, blocks, place, last))
    return undo
