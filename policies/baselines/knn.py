"""Score predictor: the nearest training prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import NearestNeighbors

from policies.base import FloatArray
from policies.baselines.value import Matrix, ValuePolicy, fit_cost_weights, linear_costs
from policies.datasets import OutcomeMatrix

NEIGHBOURS = (10, 20, 40, 60, 80, 120, 160)


@dataclass(frozen=True)
class KnnPolicy(ValuePolicy):
    """Mean score of the nearest training prompts by cosine; how many is chosen by leave-one-out error.

    Attributes:
        neighbours: scalar, how many prompts are averaged.
        embeddings: shape (n_training, d).
        scores: shape (n_training, n_models).
        cost_weights: shape (d + 1, n_models).
    """

    kind: ClassVar[str] = "knn"
    neighbours: npt.NDArray[np.int64]
    embeddings: npt.NDArray[np.float32]
    scores: Matrix
    cost_weights: Matrix

    @classmethod
    def fit(cls, data: OutcomeMatrix, tau_usd: float, *, neighbours: Sequence[int] = NEIGHBOURS) -> Self:
        """Fit to completely observed prompts; ``neighbours`` are the numbers tried, ``tau_usd`` is in USD."""
        chosen = tuned_neighbours(data.embeddings, data.scores, neighbours)
        cost = fit_cost_weights(data, tau_usd)
        return cls(data.pool.models, np.array(chosen), data.embeddings, data.scores, cost)

    @cached_property
    def _index(self) -> NearestNeighbors:
        return NearestNeighbors(n_neighbors=int(self.neighbours), metric="cosine").fit(self.embeddings)

    def predict(self, embeddings: FloatArray, prompt_tokens: FloatArray | None) -> tuple[Matrix, Matrix]:
        near = self._index.kneighbors(np.asarray(embeddings, np.float32), return_distance=False)
        return self.scores[near].mean(axis=1), linear_costs(embeddings, self.cost_weights)


def tuned_neighbours(embeddings: FloatArray, targets: Matrix, tried: Sequence[int]) -> int:
    """Return the number of neighbours with the least leave-one-out error of their mean.

    Args:
        embeddings: shape (n, d).
        targets: shape (n, m).
        tried: numbers of neighbours; those of n or more are left out.
    """
    n = len(embeddings)
    allowed = sorted(k for k in tried if k < n) or [max(n - 1, 1)]
    if len(allowed) == 1:
        return allowed[0]
    index = NearestNeighbors(n_neighbors=allowed[-1], metric="cosine").fit(embeddings)
    # Without an argument a prompt is not its own neighbour: the error is leave-one-out.
    near = targets[index.kneighbors(return_distance=False)]
    errors = [float(np.mean((near[:, :k].mean(axis=1) - targets) ** 2)) for k in allowed]
    return allowed[int(np.argmin(errors))]
