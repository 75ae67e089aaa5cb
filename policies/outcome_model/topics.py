"""Mean scores per topic: the local half of the score prediction, where enough outcomes are known to have one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]

NEAREST_TOPICS = 3
"""Topics that a prompt is taken to belong to, alike."""

PRIOR_OUTCOMES = 10.0
"""Outcomes that a model's overall mean counts for within a topic."""

ROWS_PER_TOPIC = 20
"""Fewer prompts than this in a topic, and there are fewer topics."""

FITTED_ROWS = 20_000
"""Prompts that centroids are fitted to; more do not move them."""


SHARE_DEVIATION = 0.2
"""How far the blend's best share is from table to table."""


@dataclass(frozen=True)
class TopicScores:
    """Each model's mean score in each topic, blended into the network's prediction.

    A smooth network with few inputs misses what holds in one topic alone; clusters miss what holds across
    topics. Their mean is better than either.

    Attributes:
        centroids: shape (J, p), in the space of the projected embeddings.
        scores: shape (J, K), in [0, 1].
        share: of the blend, in [0, 1].
    """

    centroids: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float64]
    share: float

    def predict(self, projected: FloatArray) -> npt.NDArray[np.float64]:
        """Return the mean scores of the nearest topics, shape (n, K), of projections of shape (n, p)."""
        near = min(NEAREST_TOPICS, len(self.centroids))
        nearest = np.argpartition(distances(projected, self.centroids), near - 1, axis=1)[:, :near]
        return self.scores[nearest].mean(axis=1)


def fitted_share(network: FloatArray, topical: FloatArray, scores: FloatArray, prior_share: float) -> float:
    """Return the share of topics in the blend that fits scores of prompts not trained on, in [0, 1].

    The least-squares share of the differences between models on one prompt, because they are what decides; how
    hard a prompt is for all models the network tells better, and would hide them. A normal prior stands in where
    there are few prompts with several observed scores.

    Args:
        network: shape (n, K), the network's predicted scores.
        topical: shape (n, K), the topics'.
        scores: shape (n, K), observed; NaN where not.
        prior_share: the prior's mean; its deviation is :data:`SHARE_DEVIATION`.
    """
    seen = np.isfinite(scores)
    seen &= seen.sum(axis=1, keepdims=True) > 1
    if not seen.any():
        return prior_share
    error, step = _between_models(scores - network, seen), _between_models(topical - network, seen)
    strength = float((error**2).mean()) / SHARE_DEVIATION**2
    share = (error @ step + strength * prior_share) / max(float(step @ step) + strength, 1e-12)
    return float(np.clip(share, 0.0, 1.0))


def _between_models(values: FloatArray, seen: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the seen values less their row's mean, flat."""
    kept = np.where(seen, values, 0.0)
    mean = kept.sum(axis=1, keepdims=True) / np.maximum(seen.sum(axis=1, keepdims=True), 1)
    return (kept - mean)[seen]


def distances(projected: FloatArray, centroids: FloatArray) -> npt.NDArray[np.floating]:
    """Return squared distances, shape (n, J), less each row's own square, which does not change their order."""
    return (centroids**2).sum(axis=1) - 2.0 * (projected @ centroids.T)


def topic_centroids(projected: FloatArray, topics: int, seed: int) -> npt.NDArray[np.float32]:
    """Return the centroids of k-means, shape (J, p), J at most ``topics``; one result per seed."""
    # Serving imports this module and fits nothing.
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    rng = np.random.default_rng(seed)
    n = len(projected)
    rows = np.sort(rng.choice(n, FITTED_ROWS, replace=False)) if n > FITTED_ROWS else np.arange(n)
    count = max(1, min(topics, len(rows) // ROWS_PER_TOPIC))
    # Several threads would add up a centroid in varying order.
    with threadpool_limits(1):
        found = KMeans(count, n_init=1, random_state=seed).fit(projected[rows])
    return found.cluster_centers_.astype(np.float32)


def topic_means(
    labels: npt.NDArray[np.int64],
    n_topics: int,
    scores: FloatArray,
    seen: npt.NDArray[np.bool_],
    overall: FloatArray,
) -> npt.NDArray[np.float64]:
    """Return each model's mean score per topic, shape (J, K), drawn towards its overall mean where few are seen.

    Args:
        labels: shape (n,), topic of each prompt.
        n_topics: J.
        scores: shape (n, K); only those seen count.
        seen: shape (n, K).
        overall: shape (K,), the models' mean scores.
    """
    total = np.zeros((n_topics, scores.shape[1]))
    count = np.zeros_like(total)
    np.add.at(total, labels, np.where(seen, scores, 0.0))
    np.add.at(count, labels, seen)
    return (total + PRIOR_OUTCOMES * overall) / (count + PRIOR_OUTCOMES)
