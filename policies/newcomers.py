"""Which models are known less well than the others, and how likely each of them is the best after all."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit, ndtr, ndtri

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

NODES = 16
_QUANTILES = ndtri((np.arange(NODES) + 0.5) / NODES)
"""Midpoints of equally probable parts of the standard normal: a quadrature whose weights are all alike."""

_LEAST_STD = 1e-6


def newness(logit_std: Float64Array, ratio: float) -> Float64Array:
    """Return how new each model is for one prompt, shape (K,), in [0, 1); 0 for one known well enough.

    A model is new while its deviation exceeds ``ratio`` times that of the pool's better known quarter, and
    ``1 - (ratio std_0 / std)^2``, the share of its variance that is beyond, fades to 0 as its posterior narrows.

    Args:
        logit_std: shape (K,), posterior deviation of each predicted logit.
        ratio: at least 1.
    """
    ordered = np.sort(logit_std)
    enough = ratio * max(float(ordered[(len(ordered) - 1) // 4]), _LEAST_STD)
    return np.maximum(1.0 - (enough / np.maximum(logit_std, enough)) ** 2, 0.0)


def chance_of_best(
    values: Float64Array,
    scores: Float64Array,
    logit_std: Float64Array,
    w_quality: float,
    eligible: BoolArray,
    columns: npt.NDArray[np.int64],
) -> Float64Array:
    """Return the posterior probability that each of ``columns`` has the largest value of the eligible models.

    The value of model j is ``w_quality sigmoid(z_j) - b_j`` with independent ``z_j ~ N(logit(score_j), std_j^2)`` and a
    known cost part ``b_j``. The probability that j stays below a value is then a normal one, and the mean of
    the product of these over the model's own posterior is taken by quadrature: Thompson sampling's probabilities
    without its draws, the same in each call.

    Args:
        values: shape (K,), expected reward of calling each model.
        scores: shape (K,), expected score.
        logit_std: shape (K,), deviation of each logit.
        w_quality: weight of the score in the value.
        eligible: shape (K,).
        columns: shape (m,), eligible models that are asked about.

    Returns:
        Shape (m,). Without a weight on quality the score's posterior says nothing of the value: 0.
    """
    if w_quality <= 0.0 or len(columns) == 0:
        return np.zeros(len(columns))
    centre = logit(np.clip(scores, 1e-9, 1.0 - 1e-9))
    std = np.maximum(logit_std, _LEAST_STD)
    cost_part = w_quality * scores - values
    own = (
        w_quality * expit(centre[columns, None] + std[columns, None] * _QUANTILES) - cost_part[columns, None]
    )
    rivals = np.flatnonzero(eligible)
    needed = np.clip((own[:, :, None] + cost_part[rivals]) / w_quality, 0.0, 1.0)
    below = ndtr((logit(needed) - centre[rivals]) / std[rivals])
    itself = columns[:, None, None] == rivals
    return np.where(itself, 1.0, below).prod(axis=2).mean(axis=1)


def exploration_worth(
    values: Float64Array,
    scores: Float64Array,
    logit_std: Float64Array,
    w_quality: float,
    eligible: BoolArray,
    ratio: float,
) -> Float64Array:
    """Return :func:`newness` times :func:`chance_of_best`, shape (K,), 0 for ineligible and for known models."""
    new = newness(logit_std, ratio)
    columns = np.flatnonzero(eligible & (new > 0.0))
    worth = np.zeros(len(values))
    worth[columns] = new[columns] * chance_of_best(values, scores, logit_std, w_quality, eligible, columns)
    return worth
