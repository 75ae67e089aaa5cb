"""What the baselines share: they are saved as plain arrays, judge by their predictions, and price by regression."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
from sklearn.linear_model import Ridge, RidgeCV

from policies.base import FloatArray, Judgement, Policy
from policies.datasets import OutcomeMatrix
from policies.errors import InputError
from policies.predicting import Matrix, PredictingPolicy
from policies.preference import cost_term

COST_RIDGE_ALPHA = 10.0
"""Penalty of the cost regression, the best of 1 and 10 on held-out tasks and prompts of training splits."""

FILE = "policy.npz"


@dataclass(frozen=True)
class ArrayPolicy(Policy):
    """A policy whose fields besides ``models`` are arrays: what is saved is one ``.npz`` without pickles."""

    models: tuple[str, ...]

    def save(self, directory: Path) -> None:
        arrays = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self) if f.name != "models"}
        np.savez(directory / FILE, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, directory: Path, models: tuple[str, ...]) -> Self:
        path = directory / FILE
        if not path.exists():
            raise InputError(f"{path}: missing; not a saved '{cls.kind}' policy")
        with np.load(path, allow_pickle=False) as stored:
            return cls(models, **{name: stored[name] for name in stored.files})


@dataclass(frozen=True)
class ValuePolicy(ArrayPolicy, PredictingPolicy):
    """A predicting policy whose fields are arrays."""

    def judge(
        self, embedding: FloatArray, preference: tuple[float, float], prompt_tokens: float
    ) -> Judgement:
        scores, cost_terms = self.predict(embedding[None, :], np.array([prompt_tokens]))
        values = preference[0] * scores[0] - preference[1] * cost_terms[0]
        # Predicted cost terms are capped, or not costs at all: the caller's cost model knows USD.
        return Judgement(values, np.clip(scores[0], 0.0, 1.0), None)


def linear(embeddings: FloatArray, weights: Matrix) -> Matrix:
    """Return ``x W + b``, shape (n, n_models), for weights of shape (d + 1, n_models) whose last row is b."""
    return np.asarray(embeddings, dtype=np.float64) @ weights[:-1] + weights[-1]


def stacked(regression: Ridge | RidgeCV) -> Matrix:
    """Return the weights that :func:`linear` takes of a fitted multi-output regression."""
    return np.vstack([np.atleast_2d(regression.coef_).T, np.atleast_1d(regression.intercept_)])


def fit_cost_weights(data: OutcomeMatrix, tau_usd: float) -> Matrix:
    """Return weights of a ridge regression of each model's cost term on the embedding (CARROT, arXiv 2502.03261).

    Predictions are not cut to [0, 1]: below 0 they still tell which of the cheap models is cheaper.

    Args:
        data: completely observed prompts.
        tau_usd: cost scale in USD.
    """
    target = cost_term(data.costs_usd, tau_usd)
    return stacked(Ridge(COST_RIDGE_ALPHA).fit(data.embeddings.astype(np.float64), target))
