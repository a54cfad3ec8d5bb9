"""Fitted probes as plain arrays, which a bundle stores, and the formulas of their logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.types import Float64, Int64
from probes.cohort.truth import Truth
from probes.fitting.cumulative import log_probabilities
from probes.fitting.votes import Neighbours, Vote, as_logits, nearest, neighbour_means, votes

Arrays = dict[str, npt.NDArray[Any]]
ABSENT = -1e4  # logit of a class without a fitted row: its probability is 0, its metrics are NaN


@dataclass(frozen=True)
class Model:
    """A fitted probe: `kind` names the formula in LOGITS, `arrays` are its arrays, `settings` its scalars."""

    kind: str
    arrays: Arrays
    settings: dict[str, float] = field(default_factory=dict)

    def logits(self, x: npt.NDArray[Any], groups: Int64 | None = None) -> Float64:
        """Logits (m, c) of scaled features (m, dim), for a softmax or, multi-label, a logistic function; of a numeric
        target or survival the predicted numbers or risks (m, 1).

        `groups` (m,) are the rows' group ids as in a kNN model, which excludes neighbours of the same group.
        """
        if self.by_neighbours:
            return (_knn if self.kind == "knn" else _knn_numbers)(self, x, groups)
        return LOGITS[self.kind](self, x)

    @property
    def by_neighbours(self) -> bool:
        """Whether rows are scored by their neighbours, of which those of their own group are excluded."""
        return self.kind in ("knn", "knn-numbers")


def _linear(model: Model, x: npt.NDArray[Any]) -> Float64:
    weights = model.arrays["W"]
    return np.asarray(x @ weights.T.astype(x.dtype) + model.arrays["b"].astype(x.dtype), np.float64)


def _prototype(model: Model, x: npt.NDArray[Any]) -> Float64:
    """Minus the squared distance to each class mean."""
    means = model.arrays["means"].astype(np.float64)
    x = x.astype(np.float64)
    squared = (x**2).sum(1, keepdims=True) - 2 * x @ means.T + (means**2).sum(1)
    return np.asarray(np.where(np.isnan(squared), ABSENT, -squared))


def _mlp(model: Model, x: npt.NDArray[Any]) -> Float64:
    """One hidden layer of rectified units."""
    arrays = model.arrays
    hidden = np.maximum(x @ arrays["W0"] + arrays["b0"], 0)
    return np.asarray(hidden @ arrays["W1"] + arrays["b1"], np.float64)


def _forest(model: Model, x: npt.NDArray[Any]) -> Float64:
    """The log of the mean over the trees of the class shares in each row's leaf. Rows are compared in float32."""
    arrays = model.arrays
    left, right, feature, threshold = (arrays[name] for name in ("left", "right", "feature", "threshold"))
    x, rows = np.asarray(x, np.float32), np.arange(len(x))
    total = np.zeros((len(x), arrays["shares"].shape[1]))
    for root in arrays["roots"]:
        node = np.full(len(x), root, np.int64)
        going = rows
        while len(going := going[left[node[going]] >= 0]):
            at = node[going]
            lower = x[going, feature[at]] <= threshold[at]
            node[going] = np.where(lower, left[at], right[at])
        total += arrays["shares"][node]
    return as_logits(total / len(arrays["roots"]), multilabel=False)


def require_trees(arrays: Arrays, dim: int) -> None:
    """Raise ValueError unless any row of `dim` numbers reaches a leaf of each tree; one row tries only a few nodes."""
    left, right, feature, threshold, shares, roots = (
        arrays[name] for name in ("left", "right", "feature", "threshold", "shares", "roots")
    )
    n = len(shares)
    if {left.shape, right.shape, feature.shape, threshold.shape} != {(n,)} or roots.ndim != 1 or not len(roots):
        raise ValueError("trees whose arrays do not fit together")
    if not all(np.issubdtype(array.dtype, np.signedinteger) for array in (left, right, feature, roots)):
        raise ValueError("a tree whose nodes are not numbered")
    inner = np.flatnonzero(left >= 0)
    children = np.stack([left[inner], right[inner]])
    if (children <= inner).any() or (children >= n).any() or (roots < 0).any() or (roots >= n).any():
        raise ValueError("a tree whose nodes do not go down")  # rows would go in a circle, or to no node
    if (feature[inner] < 0).any() or (feature[inner] >= dim).any() or not np.isfinite(threshold[inner]).all():
        raise ValueError("a tree that asks for what no vector has")
    leaves = shares[left < 0]
    if not (np.isfinite(leaves).all() and (leaves >= 0).all() and (leaves.sum(1) > 0).all()):
        raise ValueError("a leaf without shares")


def _rbf(model: Model, x: npt.NDArray[Any]) -> Float64:
    """One kernel SVM for each column: Σ dual · exp(-γ ‖x - support‖²) + b; columns share the support vectors."""
    support, gamma = model.arrays["support"].astype(np.float64), model.settings["gamma"]
    x = x.astype(np.float64)
    squared = (x**2).sum(1)[:, None] - 2 * x @ support.T + (support**2).sum(1)
    kernel = np.exp(-gamma * np.maximum(squared, 0))
    return np.asarray(kernel @ model.arrays["dual"].T + model.arrays["b"])


def _text(model: Model, x: npt.NDArray[Any]) -> Float64:
    """D14: logit_scale · v·t, or log σ(exp(logit_scale) · v·t + bias) for checkpoints with a bias."""
    cosine = x.astype(np.float64) @ model.arrays["text"].astype(np.float64).T
    if "logit_bias" not in model.settings:
        return np.asarray(model.settings["logit_scale"] * cosine)
    return np.asarray(-np.logaddexp(0, -(model.settings["logit_scale"] * cosine + model.settings["logit_bias"])))


def _knn(model: Model, x: npt.NDArray[Any], groups: Int64 | None) -> Float64:
    """D6: log of the share of votes. For rows without a group id no neighbour is excluded."""
    arrays, multilabel = model.arrays, bool(model.settings["multilabel"])
    found, vote = _neighbours(model, x, groups)
    base = Truth(tuple(map(str, range(arrays["positive"].shape[1]))), arrays["positive"], arrays["known"], None)
    if not multilabel:
        base = Truth(base.classes, base.positive, base.known, arrays["positive"].argmax(1))
    return as_logits(votes(found, base, int(model.settings["k"]), vote), multilabel=multilabel)


def _knn_numbers(model: Model, x: npt.NDArray[Any], groups: Int64 | None) -> Float64:
    """D36: the weighted mean of the neighbours' numbers."""
    found, vote = _neighbours(model, x, groups)
    return neighbour_means(found, model.arrays["numbers"], int(model.settings["k"]), vote)[:, None]


def _neighbours(model: Model, x: npt.NDArray[Any], groups: Int64 | None) -> tuple[Neighbours, Vote]:
    arrays, settings = model.arrays, model.settings
    queries = np.ascontiguousarray(x, np.float32)
    euclidean = bool(settings["euclidean"])
    if not euclidean:
        queries = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-12)
    k = int(settings["k"])
    nobody = np.full(len(queries), np.iinfo(np.int64).min)
    found = nearest(
        arrays["x"], queries, k,
        base_groups=arrays["groups"], query_groups=nobody if groups is None else groups, euclidean=euclidean,
    )  # fmt: skip
    return found, Vote("uniform" if settings["uniform"] else "softmax", settings["temperature"])


def _cumulative(model: Model, x: npt.NDArray[Any]) -> Float64:
    """D34: log probabilities of ordered grades."""
    arrays = model.arrays
    z = np.asarray(x @ arrays["w"].astype(x.dtype), np.float64)
    out = np.full((len(x), int(arrays["classes"][0])), ABSENT)
    out[:, arrays["present"]] = np.maximum(log_probabilities(z, arrays["cuts"]), ABSENT)
    return out


LOGITS: dict[str, Callable[[Model, npt.NDArray[Any]], Float64]] = {
    "linear": _linear,
    "cumulative": _cumulative,
    "prototype": _prototype,
    "mlp": _mlp,
    "forest": _forest,
    "rbf": _rbf,
    "text": _text,
}
