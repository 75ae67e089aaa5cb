"""Draws of candidate sets and preferences: what makes one policy fit any of either."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SetSampler:
    """Draws candidate sets and preferences.

    Attributes:
        min_candidates: smallest set.
        max_candidates: largest set, padding included; sets of all available models where it is at least K.
        ratio_intervals: (low, high) intervals of w = w_cost / w_quality, drawn uniformly over their union.
        simplex_share: share of preferences drawn uniformly from the simplex instead, so that the dial's far end
            (w_cost towards 1, w towards infinity) is seen as well.
    """

    min_candidates: int = 2
    max_candidates: int = 16
    ratio_intervals: tuple[tuple[float, float], ...] = ((0.0, 2.0),)
    simplex_share: float = 0.5

    def preferences(self, n: int, m: int, rng: np.random.Generator) -> Float32Array:
        """Return n x m preferences (w_quality, w_cost) on the simplex, shape (n, m, 2)."""
        low, high = (np.array(side, dtype=np.float64) for side in zip(*self.ratio_intervals, strict=True))
        ends = np.cumsum(high - low)
        at = rng.random((n, m)) * ends[-1]
        piece = np.minimum(np.searchsorted(ends, at, side="right"), len(ends) - 1)
        ratio = high[piece] - (ends[piece] - at)
        w_cost = ratio / (1.0 + ratio)
        anywhere = rng.random((n, m)) < self.simplex_share
        w_cost = np.where(anywhere, rng.random((n, m)), w_cost)
        return np.stack([1.0 - w_cost, w_cost], axis=2).astype(np.float32)

    def draws(self, preferences: npt.NDArray[np.floating]) -> BoolArray:
        """Return which preferences, shape (m, 2), can be drawn, shape (m,)."""
        if self.simplex_share > 0.0:
            return np.ones(len(preferences), dtype=bool)
        w_quality, w_cost = np.asarray(preferences, dtype=np.float64).T
        within = [
            (low * w_quality <= w_cost) & (w_cost <= high * w_quality) for low, high in self.ratio_intervals
        ]
        return np.any(within, axis=0)

    def candidates(self, available: BoolArray, rng: np.random.Generator) -> tuple[IntArray, BoolArray]:
        """Return model columns (n, N) and the mask of those that are no padding, of available models (n, K).

        Sizes are uniform from ``min_candidates`` to ``max_candidates`` as far as a row has models.
        """
        n, k = available.shape
        width = min(self.max_candidates, k)
        order = np.where(available, rng.random((n, k)), 2.0).argsort(axis=1)[:, :width]
        there = available.sum(axis=1)
        size = rng.integers(min(self.min_candidates, width), width + 1, n)
        mask = np.arange(width) < np.minimum(size, there)[:, None]
        return order.astype(np.int64), mask
