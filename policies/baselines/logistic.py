"""Score predictor: one logistic regression a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from policies.base import FloatArray
from policies.baselines.value import Matrix, ValuePolicy, fit_cost_weights, linear
from policies.datasets import OutcomeMatrix

INVERSE_PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0)
HELD_OUT = 5
"""One training prompt in so many judges the penalties."""

MAX_STEPS = 200
FLOOR = 1e-3
"""A model that is always (or never) right is predicted to be so with this much doubt."""


@dataclass(frozen=True)
class LogisticPolicy(ValuePolicy):
    """Logistic scores; scores between 0 and 1 count as both outcomes in part.

    Attributes:
        score_weights: shape (d + 1, n_models), of the log odds, intercepts last.
        cost_weights: shape (d + 1, n_models).
    """

    kind: ClassVar[str] = "logistic"
    score_weights: Matrix
    cost_weights: Matrix

    @classmethod
    def fit(
        cls, data: OutcomeMatrix, tau_usd: float, *, inverse_penalties: Sequence[float] = INVERSE_PENALTIES
    ) -> Self:
        """Fit to completely observed prompts.

        Args:
            data: the prompts.
            tau_usd: cost scale in USD.
            inverse_penalties: tried (scikit-learn's C) by log loss on a fifth of the prompts kept aside.
        """
        x = data.embeddings.astype(np.float64)
        best = inverse_penalties[0]
        judges = np.random.default_rng(0).permutation(len(x)) % HELD_OUT == 0
        if len(inverse_penalties) > 1 and len(x) >= 2 * HELD_OUT:
            losses = [
                _log_loss(_fit(x[~judges], data.scores[~judges], c), x[judges], data.scores[judges])
                for c in inverse_penalties
            ]
            best = inverse_penalties[int(np.argmin(losses))]
        return cls(data.pool.models, _fit(x, data.scores, best), fit_cost_weights(data, tau_usd))

    def predict(self, embeddings: FloatArray, prompt_tokens: FloatArray | None) -> tuple[Matrix, Matrix]:
        return expit(linear(embeddings, self.score_weights)), linear(embeddings, self.cost_weights)


def _fit(x: Matrix, scores: Matrix, inverse_penalty: float) -> Matrix:
    weights = np.zeros((x.shape[1] + 1, scores.shape[1]))
    for model, q in enumerate(scores.T):
        mean = q.mean()
        if mean <= 0.0 or mean >= 1.0:
            weights[-1, model] = logit(np.clip(mean, FLOOR, 1.0 - FLOOR))
            continue
        right, wrong = q > 0.0, q < 1.0
        rows = np.concatenate([x[right], x[wrong]])
        labels = np.repeat([1, 0], [right.sum(), wrong.sum()])
        regression = LogisticRegression(C=inverse_penalty, max_iter=MAX_STEPS, tol=1e-3)
        regression.fit(rows, labels, sample_weight=np.concatenate([q[right], 1.0 - q[wrong]]))
        weights[:-1, model], weights[-1, model] = regression.coef_[0], regression.intercept_[0]
    return weights


def _log_loss(weights: Matrix, x: Matrix, scores: Matrix) -> float:
    odds = linear(x, weights)
    return float(np.mean(np.logaddexp(0.0, odds) - scores * odds))
