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
from policies.baselines.value import Matrix, ValuePolicy, fit_cost_weights, linear
from policies.datasets import OutcomeMatrix

NEIGHBOURS = (20, 40, 80, 160, 320)
SHARPNESS = 10.0
"""Of the weights ``exp(-sharpness (distance - nearest distance))`` of cosine distances, so that a large
neighbourhood, which evens out chance, still listens to the nearest most; 0 weighs all alike."""

MOST_LEFT_OUT = 10_000
"""Prompts whose leave-one-out errors choose the number of neighbours: all of a larger table would take time that
grows with its square, to choose one of five numbers."""

CHUNK_ROWS = 4096
"""Prompts predicted in one pass: the scores of all their neighbours are in memory at once."""


@dataclass(frozen=True)
class KnnPolicy(ValuePolicy):
    """Weighted mean score of the nearest training prompts by cosine; how many is chosen by leave-one-out error.

    Attributes:
        neighbours: scalar, how many prompts are averaged.
        sharpness: scalar, how fast weights fall with the cosine distance.
        embeddings: shape (n_training, d).
        scores: shape (n_training, n_models).
        cost_weights: shape (d + 1, n_models).
    """

    kind: ClassVar[str] = "knn"
    neighbours: npt.NDArray[np.int64]
    sharpness: Matrix
    embeddings: npt.NDArray[np.float32]
    scores: Matrix
    cost_weights: Matrix

    @classmethod
    def fit(
        cls,
        data: OutcomeMatrix,
        tau_usd: float,
        *,
        neighbours: Sequence[int] = NEIGHBOURS,
        sharpness: float = SHARPNESS,
    ) -> Self:
        """Fit to completely observed prompts.

        Args:
            data: the prompts.
            tau_usd: cost scale in USD.
            neighbours: numbers tried.
            sharpness: of the weights, see ``SHARPNESS``.
        """
        chosen = tuned_neighbours(data.embeddings, data.scores, neighbours, sharpness)
        return cls(
            data.pool.models,
            np.array(chosen),
            np.array(sharpness),
            data.embeddings,
            data.scores,
            fit_cost_weights(data, tau_usd),
        )

    @cached_property
    def _index(self) -> NearestNeighbors:
        return NearestNeighbors(n_neighbors=int(self.neighbours), metric="cosine").fit(self.embeddings)

    def predict(self, embeddings: FloatArray, prompt_tokens: FloatArray | None) -> tuple[Matrix, Matrix]:
        x = np.asarray(embeddings, np.float32)
        scores = np.empty((len(x), len(self.models)))
        for start in range(0, len(x), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            distances, near = self._index.kneighbors(x[rows])
            weights = _weights(distances, float(self.sharpness))
            scores[rows] = np.einsum("nj,njk->nk", weights, self.scores[near])
        return scores, linear(embeddings, self.cost_weights)


def tuned_neighbours(
    embeddings: FloatArray, targets: Matrix, tried: Sequence[int], sharpness: float = 0.0
) -> int:
    """Return the number of neighbours with the least leave-one-out error of their weighted mean.

    Of more than ``MOST_LEFT_OUT`` prompts a draw of so many is left out, one at a time.

    Args:
        embeddings: shape (n, d).
        targets: shape (n, m).
        tried: numbers of neighbours; those of n or more are left out.
        sharpness: of the weights.
    """
    n = len(embeddings)
    allowed = sorted(k for k in tried if k < n) or [max(n - 1, 1)]
    if len(allowed) == 1:
        return allowed[0]
    left_out = np.arange(n)
    if n > MOST_LEFT_OUT:
        left_out = np.random.default_rng(0).choice(n, MOST_LEFT_OUT, replace=False)
    index = NearestNeighbors(n_neighbors=allowed[-1] + 1, metric="cosine").fit(embeddings)
    errors = np.zeros(len(allowed))
    for start in range(0, len(left_out), CHUNK_ROWS):
        own = left_out[start : start + CHUNK_ROWS]
        distances, near = _without(own, *index.kneighbors(embeddings[own]))
        for i, k in enumerate(allowed):
            weights = _weights(distances[:, :k], sharpness)
            predicted = np.einsum("nj,njm->nm", weights, targets[near[:, :k]])
            errors[i] += np.sum((predicted - targets[own]) ** 2)
    return allowed[int(np.argmin(errors))]


def _without(
    own: npt.NDArray[np.int64], distances: FloatArray, near: npt.NDArray[np.int64]
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Return the neighbours without the prompt itself, or without the nearest where copies crowd it out."""
    keep = near != own[:, None]
    keep[keep.all(axis=1), 0] = False
    return distances[keep].reshape(len(own), -1), near[keep].reshape(len(own), -1)


def _weights(distances: FloatArray, sharpness: float) -> Matrix:
    weights = np.exp(-sharpness * (np.asarray(distances, np.float64) - distances[:, :1]))
    return weights / weights.sum(axis=1, keepdims=True)
