"""The outcome model for one prompt at a time, as an endpoint decides: the batch path's function, less its overhead.

With one row, the time goes into array bookkeeping rather than arithmetic. Everything that does not depend on the
prompt is therefore worked out once, the members' trunks are laid side by side for a single product, and the output
costs, which are linear in the last layer and averaged over members, take one column a model instead of one a
member. ``tests/policies/test_outcome_model_row.py`` holds both paths together.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, ndtr

from policies.base import FloatArray, Judgement
from policies.outcome_model.features import LENGTH_LIMIT, ContextFeatures
from policies.outcome_model.topics import NEAREST_TOPICS, TopicScores


class Trained(Protocol):
    """What was learned: arrays as :class:`policies.outcome_model.policy.OutcomeModelPolicy` holds and explains them."""

    @property
    def models(self) -> tuple[str, ...]: ...
    @property
    def features(self) -> ContextFeatures: ...
    @property
    def trunk(self) -> npt.NDArray[np.float32]: ...
    @property
    def trunk_bias(self) -> npt.NDArray[np.float32]: ...
    @property
    def head(self) -> npt.NDArray[np.float32]: ...
    @property
    def head_bias(self) -> npt.NDArray[np.float32]: ...
    @property
    def log_cost_mean(self) -> npt.NDArray[np.float64]: ...
    @property
    def log_cost_std(self) -> float: ...
    @property
    def sigma(self) -> npt.NDArray[np.float64]: ...
    @property
    def recalibration(self) -> npt.NDArray[np.float64]: ...
    @property
    def input_price_per_token_usd(self) -> npt.NDArray[np.float64]: ...
    @property
    def tau_usd(self) -> float: ...
    @property
    def topics(self) -> TopicScores | None: ...


class RowModel:
    """Predictions for one prompt.

    Args:
        policy: whose arrays it lays out anew.
    """

    def __init__(self, policy: Trained) -> None:
        members, inputs, hidden = policy.trunk.shape
        n_models = len(policy.models)
        self._members, self._n_models = members, n_models
        features = policy.features
        trunk = policy.trunk.transpose(1, 0, 2).reshape(inputs, members * hidden)
        projection, length = trunk[:-1], trunk[-1]
        self._basis = np.ascontiguousarray(features.basis, dtype=np.float32)
        self._projection = np.ascontiguousarray(projection, dtype=np.float32)
        self._length = np.ascontiguousarray(length, dtype=np.float32)
        # The features' mean is subtracted before the projection, which is linear: it joins the bias.
        self._bias = (
            policy.trunk_bias.reshape(-1) - (features.mean @ self._basis) @ self._projection
        ).astype(np.float32)
        head = np.zeros((members * hidden, (members + 1) * n_models), dtype=np.float32)
        bias = np.zeros((members + 1) * n_models)
        for m in range(members):
            rows, columns = slice(m * hidden, (m + 1) * hidden), slice(m * n_models, (m + 1) * n_models)
            head[rows, columns] = policy.head[m, :, :n_models]
            head[rows, members * n_models :] = policy.head[m, :, n_models:] / members
            bias[columns] = policy.head_bias[m, 0, :n_models]
            bias[members * n_models :] += policy.head_bias[m, 0, n_models:] / members
        self._head, self._head_bias = head, bias.astype(np.float32)
        self._log_tokens_mean, self._log_tokens_std = features.log_tokens_mean, features.log_tokens_std
        self._token_scale = features.token_scale
        self._log_mean, self._log_std = policy.log_cost_mean, policy.log_cost_std
        self._sigma = np.asarray(policy.sigma, dtype=np.float64)
        self._log_scale = 0.5 * self._sigma**2
        self._recalibration = policy.recalibration
        self._prices = policy.input_price_per_token_usd
        self._tau_usd = policy.tau_usd
        self._log_tau = math.log(policy.tau_usd)
        self._topic_scores: FloatArray | None = None
        if policy.topics is not None:
            centroids = policy.topics.centroids
            self._topic_share = policy.topics.share
            self._topic_scores = policy.topics.scores
            self._topic_directions = np.ascontiguousarray(-2.0 * centroids.T, dtype=np.float32)
            offset = (centroids**2).sum(axis=1) + 2.0 * centroids @ (features.mean @ self._basis)
            self._topic_offset = offset.astype(np.float32)
            self._topic_near = min(NEAREST_TOPICS, len(centroids))

    def judge(
        self, embedding: FloatArray, preference: tuple[float, float], prompt_tokens: float
    ) -> Judgement:
        """Return values, expected scores and expected costs of every model; see :meth:`Policy.judge`.

        The expected cost is ``r (a + exp(m + sigma^2 / 2))``: the prompt's cost a and the mean of the lognormal
        whose capped mean the value is made of, with the same recalibration r.
        """
        projected = embedding @ self._basis
        hidden = projected @ self._projection
        hidden += self._bias
        if self._log_tokens_std > 0:
            length = (math.log(max(prompt_tokens, 1.0)) - self._log_tokens_mean) / self._log_tokens_std
            length = self._token_scale * min(max(length, -LENGTH_LIMIT), LENGTH_LIMIT)
            hidden += np.float32(length) * self._length
        hidden *= ndtr(hidden)
        outputs = (hidden @ self._head + self._head_bias).astype(np.float64)
        split = self._members * self._n_models
        member_scores = _logistic(outputs[:split]).reshape(self._members, self._n_models)
        scores = np.add.reduce(member_scores, axis=0) / self._members  # what mean() does, less its overhead
        if self._topic_scores is not None:
            away = projected @ self._topic_directions + self._topic_offset
            near = self._topic_near
            topical = self._topic_scores[away.argpartition(near - 1)[:near]].sum(axis=0) / near
            scores += self._topic_share * (topical - scores)
        log_cost = self._log_mean + self._log_std * outputs[split:]
        prompt_cost = prompt_tokens * self._prices
        terms = self._cost_terms(log_cost, prompt_cost)
        values = preference[0] * scores - preference[1] * terms
        costs_usd = self._recalibration * (prompt_cost + np.exp(log_cost + self._log_scale))
        return Judgement(values, scores, costs_usd)

    def _cost_terms(self, log_cost: FloatArray, prompt_cost: FloatArray) -> FloatArray:
        """Return the recalibrated ``E[min((a + X) / tau, 1)]``; see :func:`expected_cost_term`."""
        share = prompt_cost / self._tau_usd
        relative = log_cost - self._log_tau
        room = (np.log(np.maximum(1.0 - share, 1e-12)) - relative) / self._sigma
        partial = np.exp(relative + self._log_scale + log_ndtr(room - self._sigma))
        terms = partial + 1.0 - (1.0 - share) * ndtr(room)
        if prompt_cost.max() >= self._tau_usd:
            terms[share >= 1.0] = 1.0
        terms *= self._recalibration
        return np.minimum(terms, 1.0, out=terms)


def _logistic(logits: FloatArray) -> FloatArray:
    # scipy's expit takes longer to call than to compute at this size.
    return 1.0 / (1.0 + np.exp(-logits))
