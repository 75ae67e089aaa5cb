"""What the full-information baselines share: predict score and cost of every model, call the best reward."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import Ridge

from policies.base import BoolArray, FloatArray, Policy, greedy
from policies.datasets import OutcomeMatrix
from policies.preference import cost_term

COST_RIDGE_ALPHA = 1.0
"""Penalty of the cost regression: costs hang on the kind of prompt alone, so little is enough."""

ARRAYS = "policy.npz"


@dataclass(frozen=True)
class LinearCost:
    """Ridge regression of each model's ``min(c / tau, 1)`` on the embedding (as in CARROT, arXiv 2502.03261).

    Attributes:
        coefficients: shape (d, n_models).
        intercept: shape (n_models,).
    """

    coefficients: npt.NDArray[np.float64]
    intercept: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, data: OutcomeMatrix, tau_usd: float) -> Self:
        """Fit to completely observed prompts."""
        target = cost_term(data.costs_usd, tau_usd)
        ridge = Ridge(COST_RIDGE_ALPHA).fit(data.embeddings.astype(np.float64), target)
        return cls(np.atleast_2d(ridge.coef_).T, np.atleast_1d(ridge.intercept_))

    def predict(self, embeddings: FloatArray) -> npt.NDArray[np.float64]:
        """Return predicted cost terms, shape (n, n_models), in [0, 1]."""
        return np.clip(np.asarray(embeddings, np.float64) @ self.coefficients + self.intercept, 0.0, 1.0)


class ValuePolicy(Policy):
    """Calls the eligible model with the best predicted reward ``w_q q_hat - w_c c_hat``."""

    cost: LinearCost

    @classmethod
    @abstractmethod
    def fit(cls, data: OutcomeMatrix, tau_usd: float) -> Self:
        """Fit to completely observed training prompts; ``tau_usd`` is the cost scale in USD."""

    @abstractmethod
    def predict_scores(self, embeddings: FloatArray) -> npt.NDArray[np.float64]:
        """Return predicted scores, shape (n, n_models)."""

    def action_probabilities(
        self,
        embeddings: FloatArray,
        preferences: FloatArray,
        eligible: BoolArray | None = None,
        *,
        prompt_tokens: FloatArray | None = None,
    ) -> npt.NDArray[np.float64]:
        mask = self.checked_eligible(len(embeddings), eligible)
        w = np.asarray(preferences, dtype=np.float64)
        value = w[:, :1] * self.predict_scores(embeddings) - w[:, 1:] * self.cost.predict(embeddings)
        return greedy(np.where(mask, value, -np.inf))

    @abstractmethod
    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the fitted arrays by the name of their field."""

    @classmethod
    @abstractmethod
    def from_arrays(
        cls, models: tuple[str, ...], cost: LinearCost, arrays: dict[str, npt.NDArray[np.generic]]
    ) -> Self:
        """Return the policy of :meth:`arrays`."""

    def save(self, directory: Path) -> None:
        cost = {"cost_coefficients": self.cost.coefficients, "cost_intercept": self.cost.intercept}
        np.savez(directory / ARRAYS, allow_pickle=False, **cost, **self.arrays())  # type: ignore[arg-type]

    @classmethod
    def load(cls, directory: Path, models: tuple[str, ...]) -> Self:
        with np.load(directory / ARRAYS, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        cost = LinearCost(arrays.pop("cost_coefficients"), arrays.pop("cost_intercept"))
        return cls.from_arrays(models, cost, arrays)
