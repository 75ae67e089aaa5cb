"""Which checkpoint is best: mean reward of greedy decisions over the dial, on prompts that were not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from policies.barp.learner import MASKED_LOGIT
from policies.barp.network import BarpNetwork
from policies.base import Policy
from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.preference import dial_grid, preferences_from_w_cost
from policies.rllib.columns import training_columns

MAX_WEIGHT = 100.0
"""Largest inverse propensity in a doubly robust validation outcome."""


@dataclass(frozen=True)
class DialValidator:
    """Scores a network by a linear functional of its decisions.

    Every estimate used here is ``mean over rows and dial settings of  w_quality * q[i, a] - w_cost * c[i, a]``
    with a score and a cost term for every allowed model of a row. With full information these are the observed
    ones. From a log they are the doubly robust pseudo-outcomes ``mean_k + 1{k = a_i} (y_i - mean_k) / p_i`` with
    the training log's mean outcome per model as the control variate: unbiased for any logging policy with
    propensities of at least 0.01 (Dudik, Langford, Li 2011, eq. 4); weights beyond 100 are cut, so that one event
    of a tiny propensity cannot choose the checkpoint.

    Attributes:
        embeddings: shape (n, d).
        scores: shape (n, K), finite.
        cost_terms: shape (n, K), finite.
        allowed: shape (n, K), models that may be decided for.
        preferences: shape (m, 2), the dial.
        prompt_tokens: shape (n,), lengths of the prompts; None where the columns do not tell them.
    """

    embeddings: Tensor
    scores: Tensor
    cost_terms: Tensor
    allowed: Tensor
    preferences: Tensor
    prompt_tokens: Tensor | None = None

    @classmethod
    def of_rows(
        cls,
        validation: OutcomeMatrix | LoggedFeedback,
        train: OutcomeMatrix | LoggedFeedback,
        tau_usd: float,
    ) -> DialValidator:
        """Build the validator of validation rows; ``train`` gives the control variate of a log.

        Raises:
            InputError: either has no row with an observed score and cost.
        """
        # Of the training rows only outcomes are read: their vectors may be a mapped file of gigabytes.
        outcomes = {name: c for name, c in training_columns(train).items() if name != "embeddings"}
        columns, train_columns = (
            # torch wants writable memory: what is mapped for reading is copied.
            {name: torch.from_numpy(np.require(c, requirements=["C", "W"])) for name, c in part.items()}
            for part in (training_columns(validation), outcomes)
        )
        return cls.of(columns, train_columns, tau_usd)

    @classmethod
    def of(cls, columns: dict[str, Tensor], train: dict[str, Tensor], tau_usd: float) -> DialValidator:
        """Build the validator of validation columns; ``train`` gives the control variate of a log."""
        dial = torch.from_numpy(preferences_from_w_cost(dial_grid()))
        tokens = columns.get("prompt_tokens")
        scores, cost_terms = columns["scores"], (columns["costs_usd"] / tau_usd).clamp(max=1.0)
        if "actions" in columns:
            allowed, actions = columns["eligible"], columns["actions"]
            weight = torch.zeros(allowed.shape)
            weight[torch.arange(len(actions)), actions] = (1.0 / columns["propensities"]).clamp(
                max=MAX_WEIGHT
            )
            train_costs = (train["costs_usd"] / tau_usd).clamp(max=1.0)
            mean_score = _mean_per_model(train["scores"], train["actions"], allowed.shape[1])
            mean_cost = _mean_per_model(train_costs, train["actions"], allowed.shape[1])
            scores = mean_score + weight * (scores[:, None] - mean_score)
            cost_terms = mean_cost + weight * (cost_terms[:, None] - mean_cost)
            return cls(columns["embeddings"], scores, cost_terms, allowed, dial, tokens)
        observed = torch.isfinite(scores) & torch.isfinite(cost_terms)
        complete = observed.all(dim=1)
        if not complete.any():
            # No prompt was answered by every model: decide among those that did answer.
            complete = observed.any(dim=1)
        keep = observed[complete]
        return cls(
            columns["embeddings"][complete],
            torch.where(keep, scores[complete], 0.0),
            torch.where(keep, cost_terms[complete], 0.0),
            keep,
            dial,
            None if tokens is None else tokens[complete],
        )

    def mean_reward(self, network: BarpNetwork) -> float:
        """Return the mean reward of the network's greedy decisions; NaN when a logit is not finite."""
        actions = self.decisions(network)
        return float("nan") if actions is None else self.mean_reward_at(actions)

    def mean_reward_of(self, policy: Policy) -> float:
        """Return the mean reward of any policy's greedy decisions."""
        return self.mean_reward_at(self.decisions_of(policy))

    def decisions(self, network: BarpNetwork) -> Tensor | None:
        """Return the network's greedy decisions, shape (n, m); None when a logit is not finite."""
        with torch.inference_mode():
            logits = network.dial_logits(self.embeddings, self.preferences)
            if not torch.isfinite(logits).all():
                return None
            return logits.masked_fill(~self.allowed[:, None, :], MASKED_LOGIT).argmax(dim=2)

    def decisions_of(self, policy: Policy) -> Tensor:
        """Return any policy's greedy decisions, shape (n, m)."""
        embeddings, allowed = self.embeddings.numpy(), self.allowed.numpy()
        tokens = None if self.prompt_tokens is None else self.prompt_tokens.numpy().astype(np.float64)
        given = policy.over_dial(embeddings, self.preferences.numpy(), allowed, prompt_tokens=tokens)
        return torch.stack([torch.from_numpy(p.argmax(axis=1)) for p in given], dim=1)

    def mean_reward_at(self, actions: Tensor) -> float:
        """Return the mean reward of decisions, shape (n, m)."""
        score, cost_term = self.scores.gather(1, actions), self.cost_terms.gather(1, actions)
        reward = self.preferences[:, 0] * score - self.preferences[:, 1] * cost_term
        return float(reward.mean(dtype=torch.float64))


def _mean_per_model(values: Tensor, actions: Tensor, n_models: int) -> Tensor:
    """Return the mean of each model's logged values, shape (K,); of all values for a model never called."""
    total = torch.zeros(n_models, dtype=torch.float64).index_add_(0, actions, values.double())
    count = torch.bincount(actions, minlength=n_models)
    return torch.where(count > 0, total / count.clamp_min(1), values.double().mean()).float()
