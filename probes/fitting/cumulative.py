"""D34: the proportional-odds model of ordered grades (McCullagh 1980), with D4's ridge penalty."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.types import Bool, Float64, Int64

GRADIENT = 1e-6  # largest component of the divided objective's gradient at convergence
EVALUATIONS = 2000
LEAST_STEP = 1e-6  # between neighbouring cuts at the start


def fit_cumulative(x: npt.NDArray[Any], codes: Int64, weights: Float64, c: float) -> tuple[Float64, Float64, bool]:
    """W (dim,), cuts (classes - 1,) ascending, and whether the optimiser converged.

    Minimises Σ weightsᵢ · -log(σ(θ_k - wx) - σ(θ_{k-1} - wx)) + ‖w‖²/(2c), divided by Σ weights; θ₀ = -∞, the last is
    +∞. `codes` are 0 … classes - 1, each with a row.
    """
    from scipy.optimize import minimize

    x = np.asarray(x, np.float64)
    dim, classes = x.shape[1], int(codes.max()) + 1
    share = np.cumsum(np.bincount(codes, weights=weights, minlength=classes))[:-1] / weights.sum()
    cuts = np.log(share / (1 - share))
    start = np.concatenate([np.zeros(dim), cuts[:1], np.log(np.maximum(np.diff(cuts), LEAST_STEP))])
    total = float(weights.sum())

    def objective(flat: Float64) -> tuple[float, Float64]:
        w, theta = flat[:dim], _cuts(flat[dim:])
        loss, of_z, of_theta = _loss(x @ w, codes, theta, weights)
        steps = np.exp(flat[dim + 1 :])
        later = np.cumsum(of_theta[::-1])[::-1]  # a step moves every later cut
        gradient = np.concatenate([x.T @ of_z + w / c, later[:1], later[1:] * steps])
        return (loss + float(w @ w) / (2 * c)) / total, gradient / total

    found = minimize(
        objective, start, jac=True, method="L-BFGS-B",
        options={"maxfun": EVALUATIONS, "maxiter": EVALUATIONS, "gtol": GRADIENT, "ftol": 1e-15, "maxcor": 20},
    )  # fmt: skip
    converged = bool(np.abs(found.jac).max() <= 100 * GRADIENT)
    return np.asarray(found.x[:dim]), _cuts(found.x[dim:]), converged


def log_probabilities(z: Float64, cuts: Float64) -> Float64:
    """Log P (n, classes) of linear scores z (n,)."""
    upper = np.append(cuts, np.inf)[None, :] - z[:, None]
    lower = np.concatenate([[-np.inf], cuts])[None, :] - z[:, None]
    return _log_between(lower, upper)


def _cuts(flat: Float64) -> Float64:
    """Ascending cuts from the first one and the logs of the steps."""
    return np.asarray(flat[0] + np.concatenate([[0.0], np.cumsum(np.exp(flat[1:]))]))


def _log_between(lower: Float64, upper: Float64) -> Float64:
    """log(σ(upper) - σ(lower)) = log σ(upper) + log σ(-lower) + log(1 - exp(lower - upper)), without cancellation."""
    apart = np.where(np.isfinite(lower) & np.isfinite(upper), lower - upper, -np.inf)
    return np.asarray(-np.logaddexp(0, -upper) - np.logaddexp(0, lower) + np.log1p(-np.exp(np.minimum(apart, -1e-300))))


def _loss(z: Float64, codes: Int64, theta: Float64, weights: Float64) -> tuple[float, Float64, Float64]:
    """The weighted loss, and its derivatives by z (n,) and by the cuts."""
    from scipy.special import expit

    ends = np.concatenate([[-np.inf], theta, [np.inf]])
    lower, upper = ends[codes] - z, ends[codes + 1] - z
    loss = -float(weights @ _log_between(lower, upper))
    open_below, open_above = codes == 0, codes == len(theta)
    gap = np.where(open_below | open_above, 1.0, -np.expm1(np.where(open_below | open_above, -1.0, lower - upper)))
    at_upper = np.where(open_above, 0.0, expit(-upper) / (expit(-lower) * gap)) * weights
    at_lower = np.where(open_below, 0.0, expit(lower) / (expit(upper) * gap)) * weights
    of_theta = np.zeros(len(theta))
    _add(of_theta, codes, -at_upper, ~open_above)
    _add(of_theta, codes - 1, at_lower, ~open_below)
    return loss, at_upper - at_lower, of_theta


def _add(out: Float64, at: Int64, values: Float64, rows: Bool) -> None:
    out += np.bincount(at[rows], weights=values[rows], minlength=len(out))
