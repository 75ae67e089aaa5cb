"""Score predictor: clusters of prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances

from policies.base import FloatArray
from policies.baselines.value import Matrix, ValuePolicy, fit_cost_weights, linear_costs
from policies.datasets import OutcomeMatrix

CLUSTERS = 60
CLUSTERINGS = 8
NEAREST = 3
"""As in Avengers-Pro (arXiv 2508.12631): 60 clusters, a prompt's scores from its nearest ones."""

PRIOR_PROMPTS = 5.0
"""A cluster's mean is shrunk towards the overall mean as if it held so many average prompts."""


@dataclass(frozen=True)
class ClusterPolicy(ValuePolicy):
    """Mean scores of the nearest clusters of training prompts (Avengers-Pro, arXiv 2508.12631).

    Averaged over clusterings from different starts: one alone hangs on its start.

    Attributes:
        centres: shape (n_clusterings, n_clusters, d).
        scores: shape (n_clusterings, n_clusters, n_models).
        nearest: scalar, how many clusters of each clustering are averaged.
        cost_weights: shape (d + 1, n_models).
    """

    kind: ClassVar[str] = "clusters"
    centres: Matrix
    scores: Matrix
    nearest: Matrix
    cost_weights: Matrix

    @classmethod
    def fit(
        cls,
        data: OutcomeMatrix,
        tau_usd: float,
        *,
        clusters: int = CLUSTERS,
        clusterings: int = CLUSTERINGS,
        nearest: int = NEAREST,
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
        near = np.array(min(nearest, n_clusters))
        cost = fit_cost_weights(data, tau_usd)
        return cls(data.pool.models, np.stack(centres), np.stack(means), near, cost)

    def predict(self, embeddings: FloatArray, prompt_tokens: FloatArray | None) -> tuple[Matrix, Matrix]:
        x = np.asarray(embeddings, dtype=np.float64)
        total = np.zeros((len(x), len(self.models)))
        for centres, scores in zip(self.centres, self.scores):
            order = np.argsort(pairwise_distances(x, centres), axis=1, kind="stable")
            total += scores[order[:, : int(self.nearest)]].mean(axis=1)
        return total / len(self.centres), linear_costs(embeddings, self.cost_weights)
