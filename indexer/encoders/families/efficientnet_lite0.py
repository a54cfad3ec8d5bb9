"""The bundled encoder as a network of torch's modules, without timm.

It is timm's `tf_efficientnet_lite0` operation by operation, so its vectors are the same bits; a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
import torch.nn.functional as F
from torch import nn

from indexer.encoders.families.catalogue import BUNDLED_PACKAGE, CatalogueEntry, bundled_weights
from indexer.encoders.families.definition import EncoderDefinition, Towers
from indexer.encoders.families.efficientnet_plan import DIM, EPSILON, HEAD, STAGES, STEM, padding, plain_spec
from indexer.encoders.families.file_hash import verified
from indexer.encoders.families.weights import read
from indexer.encoders.rewritings.norms import fold_norms
from indexer.errors import WeightsMismatch, WeightsNotFound


def definition(entry: CatalogueEntry) -> EncoderDefinition:
    """The encoder of the catalogue's entry. Building it raises WeightsNotFound, WeightsMismatch."""

    def build() -> Towers:
        with torch.device("meta"):  # no weights are drawn
            network = _network()
        _fill(network)
        network.eval()
        fold_norms(network)  # this network's layers are known: `rewritten` would run it twice to see that they are
        return Towers(network, network, network)

    return EncoderDefinition(plain_spec(entry), build, text=False, convolutional=True)


def _fill(network: nn.Module) -> None:
    """Take the package's tensors, which are in this network's order under other names."""
    path = bundled_weights()
    if path is None:
        raise WeightsNotFound(f"the package {BUNDLED_PACKAGE} is not installed. Install it with pip.")
    theirs, ours = list(read(verified(path)).values())[:-HEAD], network.state_dict()
    if len(theirs) != len(ours) or any(a.shape != b.shape for a, b in zip(theirs, ours.values(), strict=True)):
        raise WeightsMismatch(f"{path} is not the network this version knows. Reinstall {BUNDLED_PACKAGE}.")
    # Some tensors of the file are transposed views
    network.load_state_dict(dict(zip(ours, (t.contiguous() for t in theirs), strict=True)), assign=True)


def _network() -> nn.Sequential:
    """(n, 3, 224, 224) → (n, 1280)."""
    return nn.Sequential(
        *_layers(3, STEM, 3, stride=2), *_blocks(), *_layers(STAGES[-1][3], DIM, 1), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(1),
    )  # fmt: skip


def _blocks() -> Iterator[nn.Module]:
    inner = STEM
    for kernel, first, expansion, outer, blocks in STAGES:
        for block in range(blocks):
            yield _Block(inner, outer, kernel, first if block == 0 else 1, expansion)
            inner = outer


class _Block(nn.Module):
    """An inverted residual block: 1 × 1 expansion, depthwise convolution, 1 × 1 projection without activation."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inner * expansion
        widened = _layers(inner, wide, 1) if expansion > 1 else ()
        deep = _layers(wide, wide, kernel, stride=stride, groups=wide)
        self.layers = nn.Sequential(*chain(widened, deep, _layers(wide, outer, 1)[:-1]))
        self.residual = stride == 1 and inner == outer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.layers(x)
        return made + x if self.residual else made


def _layers(
    inner: int, outer: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """A convolution, its norm and the activation."""
    kind = nn.Conv2d if stride == 1 else _PaddedAfter
    padding = kernel // 2 if stride == 1 else 0
    conv = kind(inner, outer, kernel, stride=stride, padding=padding, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(outer, eps=EPSILON), nn.ReLU6(inplace=True)


class _PaddedAfter(nn.Conv2d):
    """A convolution of stride 2 padded as TensorFlow pads."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        before, after = padding(self.kernel_size[0], 2)
        return super().forward(F.pad(input, (before, after, before, after)))
