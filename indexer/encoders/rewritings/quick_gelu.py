"""QuickGELU, x·sigmoid(1.702·x), as SiLU between rescaled linear layers: one pass over the activations, not three.

With y = 1.702·x it is y·sigmoid(y) / 1.702, so the preceding layer is multiplied by 1.702 and the following one
divided.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from indexer.encoders.rewritings import Undo
from indexer.encoders.rewritings.layers import in_order

NAME = "QuickGELU"  # the class name in open_clip and in timm
FACTOR = 1.702


def quick_gelu_as_silu(network: nn.Module) -> Undo:
    """Replace every QuickGELU that runs between two linear layers."""
    undo: Undo = []
    for block in list(network.modules()):
        layers = in_order(block)
        for (_, before), (name, activation), (_, after) in zip(layers, layers[1:], layers[2:], strict=False):
            if type(activation).__name__ != NAME or not (type(before) is type(after) is nn.Linear):
                continue
            undo.append(_back(block, name, before, after))
            before.weight, after.weight = _scaled(before.weight, FACTOR), _scaled(after.weight, 1 / FACTOR)
            if before.bias is not None:
                before.bias = _scaled(before.bias, FACTOR)
            setattr(block, name, nn.SiLU())
    return undo


def _scaled(parameter: torch.Tensor, factor: float) -> nn.Parameter:
    return nn.Parameter(parameter.detach() * factor, requires_grad=False)


def _back(block: nn.Module, name: str, before: nn.Linear, after: nn.Linear) -> Callable[[], None]:
    activation, weight, bias, last = getattr(block, name), before.weight, before.bias, after.weight

    def back() -> None:
        before.weight, before.bias, after.weight = weight, bias, last
        setattr(block, name, activation)

    return back
