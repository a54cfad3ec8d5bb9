"""Folds batch norms into the preceding convolutions, in fp32: fewer memory passes, and less rounding in bf16.

In eval mode convolution and norm are one affine map: w' = w·γ/√(var + ε), b' = (b - mean)·γ/√(var + ε) + β.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from indexer.encoders.rewritings import Undo


def fold_norms(network: nn.Module) -> Undo:
    """Fold every batch norm declared directly after a convolution."""
    undo: Undo = []
    for block in network.modules():
        children = list(block.named_children())
        for (_, conv), (name, norm) in pairwise(children):
            if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
                continue
            if norm.num_features != conv.out_channels or norm.running_mean is None or norm.running_var is None:
                continue
            undo.append(_back(block, name, norm, conv))
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            setattr(block, name, _rest(norm))
    return undo


def _rest(norm: nn.BatchNorm2d) -> nn.Module:
    """The activation that some libraries put into the norm module, else an identity."""
    activation = getattr(norm, "act", None)
    return activation if isinstance(activation, nn.Module) else nn.Identity()


def _back(block: nn.Module, name: str, norm: nn.BatchNorm2d, conv: nn.Conv2d) -> Callable[[], None]:
    weight, bias = conv.weight, conv.bias

    def back() -> None:
        conv.weight, conv.bias = weight, bias
        setattr(block, name, norm)

    return back
