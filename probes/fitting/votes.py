"""D6: votes of the nearest neighbours, for every k from one exact search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexer.types import Bool, Float32, Float64, Int64, Progress
from probes.cohort.truth import Truth
from probes.compute.exact_search import top_k
from probes.evaluation.metrics import CLIP
from probes.request import TEMPERATURE

KS = (1, 5, 10, 20, 50, 100, 200)
QUERIES = 1024  # rows whose votes are counted at once


@dataclass(frozen=True)
class Neighbours:
    """The nearest base rows of each query, best first; row -1 where there are fewer."""

    scores: Float32  # (q, k) cosine, or minus half the squared Euclidean distance plus a constant for each query
    rows: Int64  # (q, k)


@dataclass(frozen=True)
class Vote:
    """The neighbours' weights: w = exp(s/T) / Σ exp(s/T), or uniform."""

    kind: str = "softmax"  # softmax | uniform
    temperature: float = TEMPERATURE


def nearest(
    base: Float32,
    queries: Float32,
    k: int,
    *,
    base_groups: Int64,
    query_groups: Int64,
    euclidean: bool = False,
    progress: Progress | None = None,
) -> Neighbours:
    """Exact k nearest by inner product (features of unit length: cosine) or by Euclidean distance."""
    if euclidean:  # ‖q - b‖² is smallest where q·b - ‖b‖²/2 is largest
        half = (base.astype(np.float64) ** 2).sum(1, keepdims=True) / 2
        base = np.concatenate([base, -half.astype(np.float32)], axis=1)
        queries = np.concatenate([queries, np.ones((len(queries), 1), np.float32)], axis=1)
    k = min(k, len(base))
    scores, rows = top_k(base, queries, k, base_groups=base_groups, query_groups=query_groups, progress=progress)
    return Neighbours(scores, rows)


def clipped_ks(n_base: int, ks: Sequence[int] = KS) -> tuple[int, ...]:
    """The ks limited to n_base, without repeats."""
    return tuple(sorted({min(k, n_base) for k in ks}))


def votes(found: Neighbours, base: Truth, k: int, vote: Vote) -> Float64:
    """Probabilities (q, c): p_c = Σ_{j≤k} w_j·1[y_j = c]; a label's unknown neighbours do not vote.

    Without votes (no neighbour of another group) all classes are equally probable.
    """
    out = np.empty((len(found.rows), len(base.classes)))
    for start in range(0, len(out), QUERIES):
        rows = found.rows[start : start + QUERIES, :k]
        present = rows >= 0
        scores = found.scores[start : start + QUERIES, :k].astype(np.float64)
        weights = _weights(scores, present, vote)
        known = base.known[rows] & present[..., None]
        positive = base.positive[rows] & known
        total = np.einsum("qk,qkc->qc", weights, known)
        share = np.einsum("qk,qkc->qc", weights, positive)
        empty = 0.5 if base.multilabel else 1 / len(base.classes)
        out[start : start + QUERIES] = np.divide(share, total, out=np.full_like(share, empty), where=total > 0)
    return out


def _weights(scores: Float64, present: Bool, vote: Vote) -> Float64:
    """Weights (q, k) of neighbours that are `present`, up to a factor for each query."""
    if vote.kind != "softmax":
        return present.astype(np.float64)
    scores = np.where(present, scores, -np.inf)
    top = scores[:, :1]
    return np.asarray(np.exp((scores - np.where(np.isfinite(top), top, 0)) / vote.temperature))


def neighbour_means(found: Neighbours, numbers: Float64, k: int, vote: Vote) -> Float64:
    """Σ_{j≤k} w_j y_j / Σ w_j (q,) of the fitted rows' numbers y; without neighbours the mean of all y."""
    out = np.full(len(found.rows), numbers.mean())
    for start in range(0, len(out), QUERIES):
        rows = found.rows[start : start + QUERIES, :k]
        present = rows >= 0
        weights = _weights(found.scores[start : start + QUERIES, :k].astype(np.float64), present, vote)
        any_left = present.any(axis=1)
        total = np.einsum("qk,qk->q", weights, numbers[rows])
        out[start : start + QUERIES][any_left] = total[any_left] / weights.sum(axis=1)[any_left]
    return out


def as_logits(p: Float64, *, multilabel: bool) -> Float64:
    """Logits whose softmax (for labels, logistic function) is p, clipped at 1e-12."""
    p = np.clip(p, CLIP, 1.0)
    return np.asarray(np.log(p) - np.log(np.clip(1 - p, CLIP, 1.0)) if multilabel else np.log(p))
