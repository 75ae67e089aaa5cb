"""Routers that predict score and cost of every model and call the best reward."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from policies.base import BoolArray, FloatArray, Policy, greedy

Matrix = npt.NDArray[np.float64]


class PredictingPolicy(Policy):
    """Calls the eligible model with the best predicted reward ``w_quality q(x) - w_cost c(x)``.

    Predictions do not hang on the preference: over a whole dial they are made once.
    """

    @abstractmethod
    def predict(self, embeddings: FloatArray, prompt_tokens: FloatArray | None) -> tuple[Matrix, Matrix]:
        """Return predicted scores and cost terms ``min(c / tau, 1)``, both of shape (n, n_models).

        Args:
            embeddings: shape (n, d).
            prompt_tokens: shape (n,); None stands for the training mean.

        Raises:
            ValueError: vectors of another length than those learned from.
        """

    def action_probabilities(
        self,
        embeddings: FloatArray,
        preferences: FloatArray,
        eligible: BoolArray | None = None,
        *,
        prompt_tokens: FloatArray | None = None,
    ) -> Matrix:
        n = len(embeddings)
        w = self.checked_preferences(embeddings, preferences)
        mask = self.checked_eligible(n, eligible)
        if n == 0:
            return np.zeros((0, len(self.models)))
        scores, cost_terms = self.predict(embeddings, prompt_tokens)
        return _best(scores, cost_terms, w, mask)

    def over_dial(
        self,
        embeddings: FloatArray,
        dial: FloatArray,
        eligible: BoolArray | None = None,
        *,
        prompt_tokens: FloatArray | None = None,
    ) -> Iterator[Matrix]:
        n = len(embeddings)
        settings = self.checked_dial(dial)
        mask = self.checked_eligible(n, eligible)
        if n == 0:
            yield from (np.zeros((0, len(self.models))) for _ in settings)
            return
        scores, cost_terms = self.predict(embeddings, prompt_tokens)
        for w in settings:
            yield _best(scores, cost_terms, w[None, :], mask)


def _best(scores: Matrix, cost_terms: Matrix, w: Matrix, mask: BoolArray) -> Matrix:
    return greedy(np.where(mask, w[:, :1] * scores - w[:, 1:] * cost_terms, -np.inf))
