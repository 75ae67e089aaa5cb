"""Score predictors: ridge regression, nearest neighbours and clusters of prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import NearestNeighbors

from policies.base import FloatArray
from policies.baselines.value import LinearCost, ValuePolicy
from policies.datasets import OutcomeMatrix

Matrix = npt.NDArray[np.float64]

RIDGE_ALPHAS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
NEIGHBOURS = (10, 20, 40, 60, 80, 120, 160)
"""Tried by the leave-one-out error on training prompts."""

CLUSTERS = 60
CLUSTERINGS = 8
NEAREST_CLUSTERS = 3
"""As in Avengers-Pro (arXiv 2508.12631): 60 clusters, a prompt's scores from its nearest ones."""

PRIOR_PROMPTS = 5.0
"""A cluster's mean is shrunk towards the overall mean as if it held so many average prompts."""


@dataclass(frozen=True)
class RidgePolicy(ValuePolicy):
    """Linear scores on the embedding; the penalty is chosen by leave-one-out error."""

    kind: ClassVar[str] = "ridge"
    models: tuple[str, ...]
    cost: LinearCost
    coefficients: Matrix
    intercept: Matrix

    @classmethod
    def fit(cls, data: OutcomeMatrix, tau_usd: float) -> Self:
        ridge = RidgeCV(RIDGE_ALPHAS).fit(data.embeddings.astype(np.float64), data.scores)
        cost = LinearCost.fit(data, tau_usd)
        return cls(data.pool.models, cost, np.atleast_2d(ridge.coef_).T, np.atleast_1d(ridge.intercept_))

    def predict_scores(self, embeddings: FloatArray) -> Matrix:
        return np.asarray(embeddings, dtype=np.float64) @ self.coefficients + self.intercept

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {"coefficients": self.coefficients, "intercept": self.intercept}

    @classmethod
    def from_arrays(
        cls, models: tuple[str, ...], cost: LinearCost, arrays: dict[str, npt.NDArray[Any]]
    ) -> Self:
        return cls(models, cost, **arrays)


@dataclass(frozen=True)
class KnnPolicy(ValuePolicy):
    """Mean score of the nearest training prompts by cosine; how many is chosen by leave-one-out error."""

    kind: ClassVar[str] = "knn"
    models: tuple[str, ...]
    cost: LinearCost
    neighbours: npt.NDArray[np.int64]
    embeddings: npt.NDArray[np.float32]
    scores: Matrix

    @classmethod
    def fit(cls, data: OutcomeMatrix, tau_usd: float) -> Self:
        n = len(data)
        tried = [k for k in NEIGHBOURS if k < n] or [max(n - 1, 1)]
        best = tried[0]
        if n > tried[-1]:
            index = NearestNeighbors(n_neighbors=tried[-1], metric="cosine").fit(data.embeddings)
            # Without an argument a prompt is not its own neighbour: the error is leave-one-out.
            near = data.scores[index.kneighbors(return_distance=False)]
            errors = [float(np.mean((near[:, :k].mean(axis=1) - data.scores) ** 2)) for k in tried]
            best = tried[int(np.argmin(errors))]
        cost = LinearCost.fit(data, tau_usd)
        return cls(data.pool.models, cost, np.array(best), data.embeddings, data.scores)

    def predict_scores(self, embeddings: FloatArray) -> Matrix:
        index = NearestNeighbors(n_neighbors=int(self.neighbours), metric="cosine").fit(self.embeddings)
        return self.scores[index.kneighbors(np.asarray(embeddings), return_distance=False)].mean(axis=1)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {"neighbours": self.neighbours, "embeddings": self.embeddings, "scores": self.scores}

    @classmethod
    def from_arrays(
        cls, models: tuple[str, ...], cost: LinearCost, arrays: dict[str, npt.NDArray[Any]]
    ) -> Self:
        return cls(models, cost, **arrays)


@dataclass(frozen=True)
class ClusterPolicy(ValuePolicy):
    """Mean scores of the nearest clusters of training prompts (Avengers-Pro, arXiv 2508.12631).

    Averaged over clusterings from different starts: one alone hangs on its start.

    Attributes:
        centres: shape (n_clusterings, n_clusters, d).
        scores: shape (n_clusterings, n_clusters, n_models).
    """

    kind: ClassVar[str] = "clusters"
    models: tuple[str, ...]
    cost: LinearCost
    centres: Matrix
    scores: Matrix

    @classmethod
    def fit(cls, data: OutcomeMatrix, tau_usd: float) -> Self:
        n_clusters = min(CLUSTERS, len(data))
        centres, means = [], []
        for seed in range(CLUSTERINGS):
            clusters = KMeans(n_clusters, n_init=1, random_state=seed).fit(data.embeddings)
            belongs = np.eye(n_clusters)[clusters.labels_]
            total = belongs.T @ data.scores + PRIOR_PROMPTS * data.scores.mean(axis=0)
            means.append(total / (belongs.sum(axis=0)[:, None] + PRIOR_PROMPTS))
            centres.append(clusters.cluster_centers_.astype(np.float64))
        return cls(data.pool.models, LinearCost.fit(data, tau_usd), np.stack(centres), np.stack(means))

    def predict_scores(self, embeddings: FloatArray) -> Matrix:
        x = np.asarray(embeddings, dtype=np.float64)
        total = np.zeros((len(x), len(self.models)))
        for centres, scores in zip(self.centres, self.scores):
            index = NearestNeighbors(n_neighbors=min(NEAREST_CLUSTERS, len(centres))).fit(centres)
            total += scores[index.kneighbors(x, return_distance=False)].mean(axis=1)
        return total / len(self.centres)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {"centres": self.centres, "scores": self.scores}

    @classmethod
    def from_arrays(
        cls, models: tuple[str, ...], cost: LinearCost, arrays: dict[str, npt.NDArray[Any]]
    ) -> Self:
        return cls(models, cost, **arrays)
