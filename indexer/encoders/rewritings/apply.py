"""Networks rewritten for speed: the same map, with fewer passes over less.

Each rewriting knows a pattern by how libraries lay out their modules, which is a convention and no promise. So the
network is run before and after on two squares, and what does not run or does not give the same vectors is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from indexer.encoders.rewritings import Undo
from indexer.encoders.rewritings.norms import fold_norms
from indexer.encoders.rewritings.packed import packed_linears
from indexer.encoders.rewritings.patches import patches_as_products
from indexer.encoders.rewritings.quick_gelu import quick_gelu_as_silu

TOLERANCE = 1e-4  # of the largest output; fp32 rounding stays two orders below
APART = 0.05  # of what the two squares' vectors differ by: outputs that are large for every picture hide nothing there
ROUNDING = 3e-6  # of the largest output, in fp32
GARBAGE = 0.25  # of the vectors' length, in bf16: untrained networks blow rounding up to a tenth
Rewriting = Callable[[nn.Module], Undo]
COMMON: tuple[Rewriting, ...] = (fold_norms, patches_as_products, quick_gelu_as_silu)
UNFIT = (RuntimeError, IndexError, AttributeError, TypeError, ValueError)  # a network that reads what is gone


def rewritten(network: nn.Module, size: int, *own: Rewriting) -> nn.Module:
    """The network itself, in fp32 and eval mode and changed in place; `size` is the side of the squares it sees.

    `own` are the rewritings that know the network's library.
    """
    network.eval()
    rewritings, squares = (*COMMON, *own), _squares(size, torch.float32)
    was = _vectors(network, squares)
    if not _kept(network, rewritings, squares, was):
        for rewriting in rewritings:  # which of them it was
            _kept(network, (rewriting,), squares, was)
    return network


def packed(network: nn.Module, size: int) -> None:
    """The linear layers of a network that stays on the CPU in bf16, packed in place; only where `can_pack` says so."""
    called: set[nn.Module] = set()
    hooks = [
        layer.register_forward_hook(lambda layer, *_: called.add(layer))
        for layer in network.modules()
        if type(layer) is nn.Linear
    ]
    squares = _squares(size, torch.bfloat16)
    was = _vectors(network, squares)
    for hook in hooks:
        hook.remove()
    _kept(network, (partial(packed_linears, called=called),), squares, was)


def _squares(size: int, dtype: torch.dtype) -> torch.Tensor:
    """(2, 3, size, size): noise, and a dark square with a bright half."""
    noise = torch.randn(3, size, size, generator=torch.Generator().manual_seed(0))
    halves = torch.full((3, size, size), -1.5)
    halves[:, : size // 2] = 1.5
    return torch.stack([noise, halves]).to(dtype)


def _kept(network: nn.Module, rewritings: Sequence[Rewriting], squares: torch.Tensor, was: torch.Tensor) -> bool:
    """Whether the network gives the same vectors with all of these; if not, none of them is left."""
    undo: Undo = []
    try:
        for rewriting in rewritings:
            undo += rewriting(network)
        same = not undo or _same(_vectors(network, squares), was)
    except UNFIT:
        same = False
    if not same:
        for step in reversed(undo):
            step()
    return same


def _same(now: torch.Tensor, was: torch.Tensor) -> bool:
    if now.shape != was.shape:
        return False
    largest = was.abs().max()
    if was.dtype != torch.float32:
        return bool((now - was).float().norm() <= GARBAGE * was.float().norm())
    apart, change = was[0] - was[1], (now[0] - now[1]) - (was[0] - was[1])
    alike = change.abs().max() <= APART * apart.abs().max() + ROUNDING * largest
    return bool(alike and (now - was).abs().max() <= TOLERANCE * largest)


def _vectors(network: nn.Module, squares: torch.Tensor) -> torch.Tensor:
    """Of the whole squares; some networks give their tokens beside them."""
    with torch.inference_mode():
        out = network(squares)
        vectors: torch.Tensor = out[0] if isinstance(out, tuple) else out
        return vectors
