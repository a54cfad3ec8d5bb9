"""Linear layers in bf16 on a CPU through oneDNN: weights packed once, the activation fused into the product.

nn.Linear packs its weight at each call, which is 5 % of the time of a product of 800 rows. The packed layout depends
on the processor, so it is only for networks that stay on this CPU in bf16.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from indexer.encoders.rewritings import Undo
from indexer.encoders.rewritings.layers import in_order

FUSED = {"GELUTanh": ("gelu", "tanh"), "SiLU": ("swish", "")}


def can_pack() -> bool:
    """Whether this torch build and this processor have oneDNN's bf16 linear operators."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    ops = torch.ops.mkldnn
    return all(hasattr(ops, name) for name in ("_linear_pointwise", "_reorder_linear_weight")) and bool(
        ops._is_mkldnn_bf16_supported()
    )


def packed_linears(network: nn.Module, called: Collection[nn.Module]) -> Undo:
    """Pack the bf16 linear layers among `called`, the modules whose forward was called.

    The weight of any other layer is read by its parent directly and must stay as it is. An activation known to follow
    directly is fused.
    """
    undo: Undo = []
    for block in list(network.modules()):
        following = {layer: after for (_, layer), after in pairwise(in_order(block))}
        for name, layer in list(block.named_children()):
            if type(layer) is not nn.Linear or layer not in called or layer.weight.dtype != torch.bfloat16:
                continue
            after, activation = following.get(layer, ("", None))
            kind = _fused(activation)
            try:
                made = _Packed(layer, *(kind or ("none", "")))
            except RuntimeError:  # a shape that oneDNN cannot pack
                continue
            undo.append(partial(setattr, block, name, layer))
            setattr(block, name, made)
            if kind is not None:
                undo.append(partial(setattr, block, after, activation))
                setattr(block, after, nn.Identity())
    return undo


def _fused(activation: nn.Module | None) -> tuple[str, str] | None:
    """Name and algorithm of the activation in oneDNN; None where it cannot be fused."""
    name = type(activation).__name__  # the names of torch's and of timm's classes
    if name == "GELU":
        return "gelu", getattr(activation, "approximate", "none")
    return FUSED.get(name)


class _Packed(nn.Module):
    """A linear layer with packed weight and fused activation: (…, inner) → (…, outer)."""

    def __init__(self, layer: nn.Linear, activation: str, algorithm: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach()), requires_grad=False)
        self.bias = layer.bias
        self.activation, self.algorithm = activation, algorithm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, self.activation, [], self.algorithm
        )
        return made
