"""Cross-fitted predictions of score and cost of every model on every logged prompt.

Doubly robust estimates stay unbiased only when an event's own outcome has not trained its prediction, so
events are predicted from folds that hold neither them nor another event of their group (the same or a
duplicated prompt).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold

from policies.ope.logged import Float64Array, FloatArray, IntArray
from policies.preference import reward

ALPHAS = (1.0, 10.0, 100.0, 1000.0)
"""Ridge penalties tried by leave-one-out; embeddings of unit norm with some hundred events per model need
large ones."""

PRIOR_EVENTS = 10.0
"""A model's mean is shrunk towards the mean over all models as if it had this many average events."""


@dataclass(frozen=True)
class OutcomePredictions:
    """Predicted outcomes, both of shape (n, K): ``scores`` in [0, 1] and ``costs_usd`` >= 0, USD per call."""

    scores: Float64Array
    costs_usd: Float64Array

    def rewards(self, w_cost: float, tau_usd: float) -> Float64Array:
        """Return the predicted reward at one dial setting, shape (n, K); ``tau_usd`` is the cost scale in
        USD."""
        preference = np.broadcast_to(np.array([1.0 - w_cost, w_cost]), (self.scores.shape[0], 2))
        return reward(self.scores, self.costs_usd, preference, tau_usd)


def cross_fit_outcomes(
    embeddings: FloatArray,
    actions: IntArray,
    scores: FloatArray,
    costs_usd: FloatArray,
    groups: npt.ArrayLike,
    n_models: int,
    *,
    cost_cap_usd: float | None = None,
    n_components: int = 64,
    n_folds: int = 5,
    seed: int = 0,
) -> OutcomePredictions:
    """Return predicted score and cost of every model for every event, each from folds without that event's
    group.

    Score and cost are separate targets, so one fit serves every preference. Two stages shrink thinly logged
    models towards what all models share: a ridge over all events (how hard or long the prompt is), then per
    model a shrunk offset and a ridge on the residuals. A model absent from a training fold is predicted by
    the first stage alone.

    Args:
        embeddings: shape (n, d).
        actions: shape (n,), logged model, 0 .. K - 1.
        scores: shape (n,), in [0, 1].
        costs_usd: shape (n,), USD per call.
        groups: shape (n,), events with one label (one prompt or its duplicates) stay in one fold.
        n_models: K.
        cost_cap_usd: costs are cut here before fitting; pass tau, beyond which the reward does not see cost.
        n_components: embeddings with more dimensions are reduced to so many principal components, which is
            faster and, with some hundred events per model, no worse.
        n_folds: number of folds, at most the number of groups.
        seed: of the assignment of groups to folds.

    Raises:
        ValueError: shapes differ, a value is not finite, fewer than two groups or folds, an action beyond K.
    """
    x = np.asarray(embeddings, dtype=np.float64)
    a = np.asarray(actions)
    outcomes = np.stack(
        [np.asarray(scores, dtype=np.float64), np.asarray(costs_usd, dtype=np.float64)], axis=1
    )
    if cost_cap_usd is not None:
        outcomes[:, 1] = np.minimum(outcomes[:, 1], cost_cap_usd)
    _, labels = np.unique(np.asarray(groups), return_inverse=True)
    if x.ndim != 2 or not (x.shape[0] == a.size == outcomes.shape[0] == labels.size):
        raise ValueError(
            f"embeddings {x.shape}, actions {a.shape}, scores {outcomes[:, 0].shape} and groups {labels.shape} "
            "must have one row per event"
        )
    if not (np.isfinite(x).all() and np.isfinite(outcomes).all()):
        raise ValueError("embeddings, scores and costs_usd must be finite (drop events without an outcome)")
    if a.min() < 0 or a.max() >= n_models:
        raise ValueError(f"actions range over {a.min()}..{a.max()}: must lie in 0..{n_models - 1}")
    n_groups = int(labels.max()) + 1
    if n_folds < 2 or n_groups < 2:
        raise ValueError(f"n_folds={n_folds} over {n_groups} groups: both must be >= 2")
    if n_components < min(x.shape):
        # Unsupervised: the components see prompts of all folds but no outcome.
        x = PCA(n_components, random_state=seed).fit_transform(x)
    # Costs are some 1e-4 USD and scores near 1: unit spread lets one set of penalties serve both.
    spread = np.maximum(outcomes.std(axis=0), 1e-12)
    shuffled = np.random.default_rng(seed).permutation(n_groups)[labels]
    predicted = np.empty((x.shape[0], n_models, 2))
    for train, held_out in GroupKFold(min(n_folds, n_groups)).split(x, groups=shuffled):
        fitted = _fit_predict(x[train], a[train], outcomes[train] / spread, x[held_out], n_models)
        predicted[held_out] = fitted * spread
    return OutcomePredictions(
        scores=np.clip(predicted[:, :, 0], 0.0, 1.0),
        costs_usd=np.clip(predicted[:, :, 1], 0.0, None),
    )


def _fit_predict(
    x: Float64Array, actions: IntArray, outcomes: Float64Array, x_new: Float64Array, n_models: int
) -> Float64Array:
    pooled = _ridge(x, outcomes)
    shared = pooled.predict(x_new)
    residuals = outcomes - pooled.predict(x)
    predicted = np.repeat(shared[:, None, :], n_models, axis=1)
    for model in range(n_models):
        mine = actions == model
        count = int(mine.sum())
        if count == 0:
            continue
        offset = residuals[mine].sum(axis=0) / (count + PRIOR_EVENTS)
        predicted[:, model] += offset
        if count > 2 * PRIOR_EVENTS:
            own = _ridge(x[mine], residuals[mine] - offset)
            predicted[:, model] += own.predict(x_new)
    return predicted


def _ridge(x: Float64Array, y: Float64Array) -> RidgeCV:
    return RidgeCV(alphas=ALPHAS, alpha_per_target=True).fit(x, y)
