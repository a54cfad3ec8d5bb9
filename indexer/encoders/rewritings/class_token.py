"""A vision transformer's last block for the class token alone: no other token of it is ever read.

Keys and values still come from every token, so the vector is the same; of the block's arithmetic a sixth is left, which
is 7 % less for a network of twelve blocks. What a library's block looks like says its own module beside this one.
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
