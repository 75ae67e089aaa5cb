"""Direct method on a feedback log: ridge regressions per model on the events that called it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from sklearn.linear_model import RidgeCV

from policies.base import FloatArray
from policies.baselines.value import Matrix, ValuePolicy, linear, stacked
from policies.datasets import LoggedFeedback
from policies.preference import cost_term

ALPHAS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
PRIOR_EVENTS = 10.0
"""A model's mean is shrunk towards that of all models as if it had so many average events."""


@dataclass(frozen=True)
class DirectPolicy(ValuePolicy):
    """Score and cost of each model regressed on its own events, then the best predicted reward.

    A model sees one event in K. Each regression therefore starts from what all models share (one ridge over all
    events: how hard, how long the prompt is) and adds a shrunken offset and a ridge on what is left. Needs no
    propensities: it trusts the linear form instead (the direct method of Dudik et al., arXiv 1103.4601).

    Attributes:
        score_weights: shape (d + 1, n_models), intercepts last.
        cost_weights: shape (d + 1, n_models).
    """

    kind: ClassVar[str] = "direct"
    score_weights: Matrix
    cost_weights: Matrix

    @classmethod
    def fit(cls, log: LoggedFeedback, tau_usd: float, *, alphas: Sequence[float] = ALPHAS) -> Self:
        """Fit to the events whose outcome has arrived.

        Args:
            log: the events.
            tau_usd: cost scale in USD.
            alphas: penalties tried by leave-one-out error, for each model and target apart.

        Raises:
            ValueError: no event has an outcome.
        """
        events = log.scored()
        if len(events) == 0:
            raise ValueError(f"none of {len(log)} events has a score and a cost")
        x = events.embeddings.astype(np.float64)
        y = np.stack([events.scores, cost_term(events.costs_usd, tau_usd)], axis=1)
        shared = _ridge(x, y, alphas)
        residuals = y - linear(x, shared)
        weights = np.repeat(shared[:, None, :], len(log.pool.models), axis=1)
        for model in range(len(log.pool.models)):
            mine = events.actions == model
            offset = residuals[mine].sum(axis=0) / (mine.sum() + PRIOR_EVENTS)
            weights[-1, model] += offset
            if mine.sum() > 2 * PRIOR_EVENTS:
                weights[:, model] += _ridge(x[mine], residuals[mine] - offset, alphas)
        return cls(log.pool.models, weights[:, :, 0], weights[:, :, 1])

    def predict(self, embeddings: FloatArray, prompt_tokens: FloatArray | None) -> tuple[Matrix, Matrix]:
        return linear(embeddings, self.score_weights), linear(embeddings, self.cost_weights)


def _ridge(x: Matrix, y: Matrix, alphas: Sequence[float]) -> Matrix:
    return stacked(RidgeCV(alphas, alpha_per_target=True).fit(x, y))
