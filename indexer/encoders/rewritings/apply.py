"""Applies rewritings that compute the same function faster, and undoes those that change the vectors.

A rewriting recognises a pattern by how a library lays out its modules, which no library guarantees. So the network is
run on two pictures before and after, and a rewriting after which it fails or gives other vectors is rolled back.
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

TOLERANCE = 1e-4  # largest change, relative to the largest output; fp32 rounding stays two orders of magnitude below
APART = (
    0.05  # largest change of the difference between the two vectors, relative to it: a large constant output cancels
)
ROUNDING = 3e-6  # fp32 rounding of such a difference, relative to the largest output
GARBAGE = 0.25  # largest change in bf16, relative to the norm; untrained networks amplify rounding up to 0.1
Rewriting = Callable[[nn.Module], Undo]
COMMON: tuple[Rewriting, ...] = (fold_norms, patches_as_products, quick_gelu_as_silu)
UNFIT = (RuntimeError, IndexError, AttributeError, TypeError, ValueError)  # of a network that reads a replaced module


def rewritten(network: nn.Module, size: int, *own: Rewriting) -> nn.Module:
    """Apply the common rewritings and `own`, those of the network's library, to an fp32 network in place.

    Sets eval mode; `size` is the side of the input square in pixels. Returns the same network.
    """
    network.eval()
    rewritings, squares = (*COMMON, *own), _squares(size, torch.float32)
    was = _vectors(network, squares)
    if not _kept(network, rewritings, squares, was):
        for rewriting in rewritings:  # all together failed: keep each one that passes alone
            _kept(network, (rewriting,), squares, was)
    return network


def packed(network: nn.Module, size: int) -> None:
    """Pack the linear layers of a bf16 CPU network in place. Requires `can_pack()`."""
    called: set[nn.Module] = set()
    linears = [layer for layer in network.modules() if type(layer) is nn.Linear]
    if not linears:  # the network is not run, which takes as long as a query's image
        return
    hooks = [layer.register_forward_hook(lambda layer, *_: called.add(layer)) for layer in linears]
    squares = _squares(size, torch.bfloat16)
    was = _vectors(network, squares)
    for hook in hooks:
        hook.remove()
    _kept(network, (partial(packed_linears, called=called),), squares, was)


def _squares(size: int, dtype: torch.dtype) -> torch.Tensor:
    """Two test inputs (2, 3, size, size): Gaussian noise, and a dark picture with a bright upper half."""
    noise = torch.randn(3, size, size, generator=torch.Generator().manual_seed(0))
    halves = torch.full((3, size, size), -1.5)
    halves[:, : size // 2] = 1.5
    return torch.stack([noise, halves]).to(dtype)


def _kept(network: nn.Module, rewritings: Sequence[Rewriting], squares: torch.Tensor, was: torch.Tensor) -> bool:
    """Apply `rewritings`; where the vectors differ from `was`, undo all of them and return False."""
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
    """The network's output (2, dim); the first element where a network returns tokens beside the pooled vector."""
    with torch.inference_mode():
        out = network(squares)
        vectors: torch.Tensor = out[0] if isinstance(out, tuple) else out
        return vectors
