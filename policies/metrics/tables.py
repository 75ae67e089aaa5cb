"""Checks of the arrays that every metric takes: outcome tables and routing probabilities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]

PROBABILITY_TOLERANCE = 1e-4
"""Largest departure of a row of probabilities from one: float32 softmaxes over a few hundred models stay
below."""


def checked_outcomes(scores: FloatArray, costs_usd: FloatArray) -> tuple[Float64Array, Float64Array]:
    """Return the full outcome table as float64, after checking it.

    Args:
        scores: shape (n, K), in [0, 1].
        costs_usd: shape (n, K), USD per call, >= 0.

    Raises:
        ValueError: shapes differ or are empty, a value is NaN (drop prompts that a pool model has not
            answered before computing metrics), a score lies outside [0, 1], a cost is negative or infinite.
    """
    q = np.asarray(scores, dtype=np.float64)
    c = np.asarray(costs_usd, dtype=np.float64)
    if q.ndim != 2 or q.shape != c.shape or q.size == 0:
        raise ValueError(
            f"scores {q.shape} and costs_usd {c.shape} must have one shape (n prompts, K models), both >= 1"
        )
    for name, table in (("scores", q), ("costs_usd", c)):
        _no_nan(name, table)
    _in_range("scores", q, 0.0, 1.0)
    _in_range("costs_usd", c, 0.0, np.finfo(np.float64).max)
    return q, c


def checked_probabilities(probabilities: FloatArray, n: int, n_models: int) -> Float64Array:
    """Return probabilities of shape (S, n, K) as float64; (n, K) is read as one dial setting.

    Raises:
        ValueError: wrong shape, NaN, a value outside [0, 1], or a row that does not sum to one.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim == 2:
        p = p[None]
    if p.ndim != 3 or p.shape[1:] != (n, n_models):
        raise ValueError(
            f"probabilities has shape {np.shape(probabilities)}: "
            f"expected (S, {n}, {n_models}) or ({n}, {n_models})"
        )
    _no_nan("probabilities", p)
    _in_range("probabilities", p, 0.0, 1.0 + PROBABILITY_TOLERANCE)
    sums = p.sum(axis=2)
    off = np.abs(sums - 1.0) > PROBABILITY_TOLERANCE
    if off.any():
        at = tuple(int(i) for i in np.argwhere(off)[0])
        raise ValueError(f"probabilities at (setting, row) {at} sum to {sums[at]}: every row must sum to 1")
    return p


def checked_dial(w_cost: FloatArray, n_settings: int | None = None) -> Float64Array:
    """Return the dial settings w_cost, shape (S,), after checking that they lie in [0, 1] and rise.

    Raises:
        ValueError: not one-dimensional, a length other than ``n_settings``, out of range, or not increasing.
    """
    w = np.atleast_1d(np.asarray(w_cost, dtype=np.float64))
    if w.ndim != 1 or w.size == 0 or (n_settings is not None and w.size != n_settings):
        raise ValueError(f"w_cost has shape {w.shape}: expected ({n_settings or 'S'},)")
    if not ((w >= 0.0) & (w <= 1.0)).all():
        raise ValueError(f"w_cost is {w.tolist()}: every setting must lie in [0, 1]")
    if (np.diff(w) <= 0.0).any():
        raise ValueError(f"w_cost is {w.tolist()}: settings must be strictly increasing")
    return w


def checked_points(costs: FloatArray, qualities: FloatArray) -> tuple[Float64Array, Float64Array]:
    """Return (cost, quality) points as two float64 arrays of shape (S,).

    Raises:
        ValueError: lengths differ or are 0, or a value is not finite.
    """
    c = np.atleast_1d(np.asarray(costs, dtype=np.float64))
    q = np.atleast_1d(np.asarray(qualities, dtype=np.float64))
    if c.ndim != 1 or c.shape != q.shape or c.size == 0:
        raise ValueError(f"costs {c.shape} and qualities {q.shape} must have one shape (S,), S >= 1")
    if not (np.isfinite(c).all() and np.isfinite(q).all()):
        raise ValueError(
            "costs and qualities of points must be finite (drop prompts with missing outcomes first)"
        )
    return c, q


def one_hot(choices: IntArray, n_models: int) -> Float64Array:
    """Return the probabilities of a deterministic router, shape ``choices.shape + (K,)``.

    Raises:
        ValueError: a choice lies outside 0 .. K - 1.
    """
    picks = np.asarray(choices)
    if picks.size and not (picks.min() >= 0 and picks.max() < n_models):
        raise ValueError(f"choices range over {picks.min()}..{picks.max()}: must lie in 0..{n_models - 1}")
    out = np.zeros((*picks.shape, n_models))
    np.put_along_axis(out, picks[..., None], 1.0, axis=-1)
    return out


def _no_nan(name: str, table: Float64Array) -> None:
    missing = np.isnan(table)
    if missing.any():
        at = tuple(int(i) for i in np.argwhere(missing)[0])
        raise ValueError(
            f"{name} at {at} is NaN ({int(missing.sum())} such values): "
            "drop prompts with a missing outcome first"
        )


def _in_range(name: str, table: Float64Array, low: float, high: float) -> None:
    bad = ~((table >= low) & (table <= high))
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"{name} at {at} is {table[at]}: must lie in [{low:g}, {high:g}]")
