"""Blocked bf16 attention on the CPU: the blocks of scores stay in the core's cache.

torch's kernel takes up to 1.9 times as long (from 50 tokens on, one thread, AVX512-BF16), and so does this function
with the scores of a whole batch in one block. On a CPU without bf16 matrix products it is far slower than torch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

SCORES = 1 << 19  # attention scores in a block, 2 MiB in fp32; measured: 2^18 to 2^20 equally fast, others slower
ARGUMENTS = {"query", "key", "value", "scale"}  # the arguments of torch's function that `attend` takes


class AttentionInParts(TorchFunctionMode):
    """Inside this context, and in its thread only, `attend` replaces unmasked bf16 scaled_dot_product_attention.

    nn.MultiheadAttention does not call that function but takes its slow path under a function mode; networks should
    hold none (rewritings/clip_attention.py).
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called by torch in place of each of its functions."""
        options = kwargs or {}
        if func is F.scaled_dot_product_attention and _fits(*args, **options):
            return attend(*args[:3], **{name: options[name] for name in ARGUMENTS & options.keys()})
        return func(*args, **options)


def _fits(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> bool:
    plain = attn_mask is None and not dropout_p and not is_causal and not options.get("enable_gqa")
    tensors = (query, key, value)
    heads = all(t.ndim == 4 and t.numel() for t in tensors) and len({t.shape[:2] for t in tensors}) == 1
    return plain and query.dtype == torch.bfloat16 and heads


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float | None = None) -> torch.Tensor:
    """softmax(query · keyᵀ · scale) · value: (n, heads, t, d), (n, heads, s, d), (n, heads, s, e) → (n, heads, t, e).

    `scale` is 1 / √d where None. Scores and softmax are computed in fp32.
    """
    n, heads, t, d = query.shape
    s, count = key.shape[2], n * heads
    q, k, v = query.reshape(count, t, d), key.reshape(count, s, d), value.reshape(count, s, -1)
    scale = d**-0.5 if scale is None else scale
    made = q.new_empty(count, t, v.shape[-1])
    step, rows = max(1, SCORES // (t * s)), max(1, SCORES // s)
    for i in range(0, count, step):
        keys, values = k[i : i + step].transpose(1, 2), v[i : i + step]
        for r in range(0, t, rows):
            scores = _products(q[i : i + step, r : r + rows], keys).mul_(scale)
            made[i : i + step, r : r + rows] = torch.bmm(scores.softmax(-1).to(q.dtype), values)
    return made.view(n, heads, t, -1)


def _products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Batched matrix product of bf16 inputs with an fp32 result: the bf16 product plus its own rounding error.

    A score of 20 rounded to bf16 is off by up to 0.06, which changes its softmax weight by 6 %. An fp32 product would
    take longer than these two bf16 products.
    """
    rounded = torch.bmm(left, right)
    return rounded.float().add_(torch.baddbmm(rounded, left, right, beta=-1))
