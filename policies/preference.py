"""The preference of a request and the reward it induces.

A preference is a point on the 1-simplex, ``w = (w_quality, w_cost)`` with ``w_quality + w_cost = 1``. The dial
that users turn is ``w_cost``: 0 asks for quality alone, 1 for low cost alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]

DIAL_STEP = 0.05
"""Spacing of the dial grid on which every report and every batch decision is made."""


def dial_grid() -> npt.NDArray[np.float64]:
    """Return the settings w_cost = 0, 0.05 .. 1 of the dial, shape (21,), rounded to two decimals."""
    return np.round(np.arange(0.0, 1.0 + DIAL_STEP / 2, DIAL_STEP), 2)


def preferences_from_w_cost(w_cost: float | FloatArray, n: int | None = None) -> npt.NDArray[np.float32]:
    """Return preferences of shape (n, 2) with columns (w_quality, w_cost).

    Args:
        w_cost: one value or shape (n,), in [0, 1].
        n: number of rows, when ``w_cost`` is one value.

    Raises:
        ValueError: a value lies outside [0, 1] or is NaN.
    """
    w = np.atleast_1d(np.asarray(w_cost, dtype=np.float64))
    bad = ~((w >= 0.0) & (w <= 1.0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(f"w_cost at row {row} is {w[row]}: must lie in [0, 1]")
    if n is not None:
        w = np.broadcast_to(w, (n,))
    return np.stack([1.0 - w, w], axis=1).astype(np.float32)


def normalise_preference(w_quality: float | None, w_cost: float) -> tuple[float, float]:
    """Return (w_quality, w_cost) on the simplex, from a dial setting or from two non-negative weights.

    Raises:
        ValueError: a weight is negative or not finite, both are zero, or ``w_cost`` alone exceeds 1.
    """
    if w_quality is None:
        if not 0.0 <= w_cost <= 1.0:
            raise ValueError(f"w_cost is {w_cost}: must lie in [0, 1] when w_quality is not given")
        return 1.0 - w_cost, w_cost
    total = w_quality + w_cost
    if not (w_quality >= 0.0 and w_cost >= 0.0 and 0.0 < total < np.inf):
        raise ValueError(f"w_quality={w_quality}, w_cost={w_cost}: must be >= 0, finite and not both 0")
    return w_quality / total, w_cost / total


def cost_term(costs_usd: FloatArray, tau_usd: float) -> FloatArray:
    """Return the normalised cost ``min(c / tau, 1)``, same shape as ``costs_usd`` (USD per call).

    Raises:
        ValueError: ``tau_usd`` is not a positive finite number.
    """
    if not (np.isfinite(tau_usd) and tau_usd > 0.0):
        raise ValueError(f"tau_usd is {tau_usd}: must be a positive finite number of USD")
    return np.minimum(costs_usd / tau_usd, 1.0)


def reward(
    scores: FloatArray, costs_usd: FloatArray, preferences: FloatArray, tau_usd: float
) -> npt.NDArray[np.float64]:
    """Return ``w_q q - w_c min(c / tau, 1)`` (BaRP, arXiv 2510.07429, reward).

    Args:
        scores: shape (n,) or (n, K), in [0, 1]; NaN (not observed) stays NaN.
        costs_usd: same shape, USD per call.
        preferences: shape (n, 2), columns (w_quality, w_cost).
        tau_usd: cost scale in USD.
    """
    w = np.asarray(preferences, dtype=np.float64)
    w_quality, w_cost = w[:, 0], w[:, 1]
    if np.ndim(scores) == 2:
        w_quality, w_cost = w_quality[:, None], w_cost[:, None]
    scaled = cost_term(np.asarray(costs_usd, dtype=np.float64), tau_usd)
    return w_quality * np.asarray(scores, dtype=np.float64) - w_cost * scaled


def default_tau_usd(costs_usd: FloatArray) -> float:
    """Return the default cost scale: the 95th percentile (linear interpolation) of the observed training costs.

    Raises:
        ValueError: no cost is observed, or the percentile is not positive.
    """
    observed = np.asarray(costs_usd, dtype=np.float64)
    observed = observed[np.isfinite(observed)]
    tau = float(np.quantile(observed, 0.95)) if observed.size else 0.0
    if tau <= 0.0:
        raise ValueError(
            f"the 95th percentile of {observed.size} training costs is {tau} USD: tau must be positive; "
            "set train.tau_usd when all costs are 0"
        )
    return tau
