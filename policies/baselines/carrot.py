"""Plug-in router: one smooth regression of every model's score and of every model's cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.metrics.pairwise import rbf_kernel

from policies.base import FloatArray
from policies.baselines.value import Matrix, ValuePolicy, linear, stacked
from policies.datasets import OutcomeMatrix
from policies.preference import cost_term

LANDMARKS = 400
ALPHAS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
KERNEL_WIDTH = 1.0
"""Of the Gaussian kernel; unrelated unit vectors lie 1.4 apart."""

LENGTH_SCALE = 0.3
"""Standard deviation given to the log prompt tokens beside the unit vector."""

JITTER = 1e-6
"""Least eigenvalue, relative to the largest, that the landmarks' kernel is inverted with."""


@dataclass(frozen=True)
class CarrotPolicy(ValuePolicy):
    """Scores and costs by kernel ridge regression on landmark prompts (plug-in of CARROT, arXiv 2502.03261).

    CARROT regresses score and cost alike and takes the best predicted trade-off; its regressor is a fine-tuned
    encoder or kNN. Here it is a Gaussian kernel on the frozen embedding and the prompt's length (Nystroem features
    on landmarks, penalties by leave-one-out error), so that a long prompt is known to cost more.

    Attributes:
        landmarks: shape (m, d + 1), embedding and scaled log prompt tokens of training prompts.
        whitening: shape (m, m), inverse root of the landmarks' kernel matrix.
        score_weights: shape (m + 1, n_models), intercepts last.
        cost_weights: shape (m + 1, n_models).
        length: shape (2,), mean of the log prompt tokens and the factor on what they deviate from it.
    """

    kind: ClassVar[str] = "carrot"
    landmarks: Matrix
    whitening: Matrix
    score_weights: Matrix
    cost_weights: Matrix
    length: Matrix

    @classmethod
    def fit(
        cls,
        data: OutcomeMatrix,
        tau_usd: float,
        *,
        landmarks: int = LANDMARKS,
        alphas: Sequence[float] = ALPHAS,
    ) -> Self:
        """Fit to completely observed prompts.

        Args:
            data: the prompts.
            tau_usd: cost scale in USD.
            landmarks: training prompts that the kernel is spanned by, drawn at random.
            alphas: penalties tried, one chosen for scores and one for costs.
        """
        logs = np.log(np.maximum(data.prompt_tokens, 1.0))
        length = np.array([logs.mean(), LENGTH_SCALE / (logs.std() or 1.0)])
        inputs = _inputs(data.embeddings, data.prompt_tokens, length)
        chosen = np.random.default_rng(0).permutation(len(inputs))[:landmarks]
        spanned = inputs[np.sort(chosen)]
        values, vectors = np.linalg.eigh(_kernel(spanned, spanned))
        values = np.maximum(values, JITTER * values[-1])
        whitening = (vectors / np.sqrt(values)) @ vectors.T
        features = _kernel(inputs, spanned) @ whitening
        scores = RidgeCV(alphas).fit(features, data.scores)
        costs = RidgeCV(alphas).fit(features, cost_term(data.costs_usd, tau_usd))
        return cls(data.pool.models, spanned, whitening, stacked(scores), stacked(costs), length)

    def predict(self, embeddings: FloatArray, prompt_tokens: FloatArray | None) -> tuple[Matrix, Matrix]:
        inputs = _inputs(embeddings, prompt_tokens, self.length)
        features = _kernel(inputs, self.landmarks) @ self.whitening
        return linear(features, self.score_weights), linear(features, self.cost_weights)


def _inputs(embeddings: FloatArray, prompt_tokens: FloatArray | None, length: Matrix) -> Matrix:
    """Return shape (n, d + 1); prompts of unknown length count as average."""
    n = len(embeddings)
    logs = np.full(n, length[0]) if prompt_tokens is None else np.log(np.maximum(prompt_tokens, 1.0))
    return np.hstack([np.asarray(embeddings, np.float64), ((logs - length[0]) * length[1])[:, None]])


def _kernel(x: Matrix, y: Matrix) -> Matrix:
    return rbf_kernel(x, y, gamma=0.5 / KERNEL_WIDTH**2)
