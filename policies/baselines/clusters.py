"""Score predictor: clusters of prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from scipy.special import softmax
from sklearn.cluster import KMeans
from sklearn.metrics.pairwise import euclidean_distances

from policies.base import FloatArray
from policies.baselines.value import Matrix, ValuePolicy, fit_cost_weights, linear
from policies.datasets import OutcomeMatrix

CLUSTERS = 60
CLUSTERINGS = 8
SHARPNESS = 10.0
"""A cluster's weight is ``exp(-sharpness d^2)``, d its centre's distance: 60 clusters as in Avengers-Pro (arXiv
2508.12631), which averages the nearest few; weights that fade decide the same prompts without that edge."""

PRIOR_PROMPTS = 5.0
"""A cluster's mean is shrunk towards the overall mean as if it held so many average prompts."""


@dataclass(frozen=True)
class ClusterPolicy(ValuePolicy):
    """Mean scores of clusters of training prompts, the nearer the heavier (Avengers-Pro, arXiv 2508.12631).

    Averaged over clusterings from different starts: one alone hangs on its start.

    Attributes:
        centres: shape (n_clusterings, n_clusters, d).
        scores: shape (n_clusterings, n_clusters, n_models).
        sharpness: scalar, how fast a cluster's weight falls with the squared distance.
        cost_weights: shape (d + 1, n_models).
    """

    kind: ClassVar[str] = "clusters"
    centres: Matrix
    scores: Matrix
    sharpness: Matrix
    cost_weights: Matrix

    @classmethod
    def fit(
        cls,
        data: OutcomeMatrix,
        tau_usd: float,
        *,
        clusters: int = CLUSTERS,
        clusterings: int = CLUSTERINGS,
        sharpness: float = SHARPNESS,
        prior_prompts: float = PRIOR_PROMPTS,
    ) -> Self:
        """Fit to completely observed prompts; ``tau_usd`` is in USD, the rest as the module's constants."""
        n_clusters = min(clusters, len(data))
        centres, means = [], []
        for seed in range(clusterings):
            found = KMeans(n_clusters, n_init=1, random_state=seed).fit(data.embeddings)
            belongs = np.eye(n_clusters)[found.labels_]
            total = belongs.T @ data.scores + prior_prompts * data.scores.mean(axis=0)
            means.append(total / (belongs.sum(axis=0)[:, None] + prior_prompts))
            centres.append(found.cluster_centers_.astype(np.float64))
        cost = fit_cost_weights(data, tau_usd)
        return cls(data.pool.models, np.stack(centres), np.stack(means), np.array(sharpness), cost)

    def predict(self, embeddings: FloatArray, prompt_tokens: FloatArray | None) -> tuple[Matrix, Matrix]:
        x = np.asarray(embeddings, dtype=np.float64)
        total = np.zeros((len(x), len(self.models)))
        for centres, scores in zip(self.centres, self.scores):
            weights = softmax(-self.sharpness * euclidean_distances(x, centres, squared=True), axis=1)
            total += weights @ scores
        return total / len(self.centres), linear(embeddings, self.cost_weights)
