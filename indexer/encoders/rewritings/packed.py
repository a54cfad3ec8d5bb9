"""Linear layers on a CPU in bf16 as oneDNN does them fastest: the weight packed once, the activation in the same pass.

torch's own layer packs the weight anew with each call, which is 5 % of a product of 800 rows. For networks in bf16 on
a CPU alone: what is packed is in the order that this processor's products read.
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
    """Whether this torch and this processor have such products."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    ops = torch.ops.mkldnn
    return all(hasattr(ops, name) for name in ("_linear_pointwise", "_reorder_linear_weight")) and bool(
        ops._is_mkldnn_bf16_supported()
    )


def packed_linears(network: nn.Module, called: Collection[nn.Module]) -> Undo:
    """Pack the linear layers among `called`, those that run as modules: of others some block reads the weight itself.

    An activation that is known to follow goes into the layer.
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
            except RuntimeError:  # oneDNN packs no such shape here
                continue
            undo.append(partial(setattr, block, name, layer))
            setattr(block, name, made)
            if kind is not None:
                undo.append(partial(setattr, block, after, activation))
                setattr(block, after, nn.Identity())
    return undo


def _fused(activation: nn.Module | None) -> tuple[str, str] | None:
    """OneDNN's name and algorithm for it; None where it stays a layer of its own."""
    name = type(activation).__name__  # torch's, or timm's own
    if name == "GELU":
        return "gelu", getattr(activation, "approximate", "none")
    return FUSED.get(name)


class _Packed(nn.Module):
    """(…, inner) → (…, outer)."""

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
