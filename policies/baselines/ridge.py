"""Score predictor: ridge regression on the embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from sklearn.linear_model import Ridge

from policies.base import FloatArray
from policies.baselines.tuning import best_by_reward
from policies.baselines.value import Matrix, ValuePolicy, fit_cost_weights, linear, stacked
from policies.datasets import OutcomeMatrix

ALPHAS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


@dataclass(frozen=True)
class RidgePolicy(ValuePolicy):
    """Linear scores; the penalty is chosen by the reward of its decisions, cross-validated on training prompts.

    Attributes:
        score_weights: shape (d + 1, n_models), intercepts last.
        cost_weights: shape (d + 1, n_models).
    """

    kind: ClassVar[str] = "ridge"
    score_weights: Matrix
    cost_weights: Matrix

    @classmethod
    def fit(cls, data: OutcomeMatrix, tau_usd: float, *, alphas: Sequence[float] = ALPHAS) -> Self:
        """Fit to completely observed prompts; ``alphas`` are the penalties tried, ``tau_usd`` is in USD."""
        alpha = best_by_reward(
            alphas, data, tau_usd, lambda a, train, held_out: linear(held_out.embeddings, _fit(train, a))
        )
        return cls(data.pool.models, _fit(data, alpha), fit_cost_weights(data, tau_usd))

    def predict(self, embeddings: FloatArray, prompt_tokens: FloatArray | None) -> tuple[Matrix, Matrix]:
        return linear(embeddings, self.score_weights), linear(embeddings, self.cost_weights)


def _fit(data: OutcomeMatrix, alpha: float) -> Matrix:
    return stacked(Ridge(alpha).fit(data.embeddings.astype(np.float64), data.scores))
