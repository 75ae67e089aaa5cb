"""Do predicted outcomes mean what they say? Reliability in bins and the expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]

N_BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Predictions in bins of equal width over [0, 1], empty bins left out.

    Attributes:
        counts: shape (n_bins,), total weight of the pairs in a bin.
        predicted: shape (n_bins,), their mean prediction.
        observed: shape (n_bins,), their mean outcome.
    """

    counts: npt.NDArray[np.float64]
    predicted: npt.NDArray[np.float64]
    observed: npt.NDArray[np.float64]

    @property
    def expected_calibration_error(self) -> float:
        """Mean of ``|observed - predicted|`` over bins, weighted by count (Guo et al., arXiv 1706.04599)."""
        if self.counts.sum() == 0.0:
            return float("nan")
        return float(np.average(np.abs(self.observed - self.predicted), weights=self.counts))


def reliability(
    predicted: FloatArray, observed: FloatArray, weights: FloatArray | None = None, n_bins: int = N_BINS
) -> Reliability:
    """Return what was observed where each level was predicted.

    Args:
        predicted: any shape; values outside [0, 1] (of linear models) fall into the outer bins.
        observed: same shape, in [0, 1], finite.
        weights: same shape, not negative; None counts every pair once.
        n_bins: bins of equal width.

    Raises:
        ValueError: shapes differ, or a value is not finite.
    """
    p, y = np.asarray(predicted, dtype=np.float64).ravel(), np.asarray(observed, dtype=np.float64).ravel()
    w = np.ones_like(p) if weights is None else np.asarray(weights, dtype=np.float64).ravel()
    if not len(p) == len(y) == len(w):
        raise ValueError(f"{len(p)} predictions, {len(y)} outcomes and {len(w)} weights")
    if not (np.isfinite(p).all() and np.isfinite(y).all()):
        raise ValueError("predictions and outcomes must be finite")
    bins = np.clip((p * n_bins).astype(np.int64), 0, n_bins - 1)
    counts = np.bincount(bins, weights=w, minlength=n_bins).astype(np.float64)
    filled = counts > 0.0
    means = [np.bincount(bins, weights=w * v, minlength=n_bins)[filled] / counts[filled] for v in (p, y)]
    return Reliability(counts[filled], *means)
