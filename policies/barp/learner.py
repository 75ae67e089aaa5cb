"""REINFORCE with a batch baseline and an entropy bonus (BaRP, arXiv 2510.07429, training)."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from torch import Tensor

from policies.rllib.offline import EpochLearner

MASKED_LOGIT = -1e9
"""Logit of a model that may not be sampled: its probability is exactly 0 in float32, its gradient finite."""


def uniform_preferences(n: int, device: torch.device) -> Tensor:
    """Return preferences drawn uniformly from the 1-simplex, shape (n, 2)."""
    w_quality = torch.rand(n, 1, device=device)
    return torch.cat([w_quality, 1.0 - w_quality], dim=1)


def importance_weights(probability: Tensor, propensity: Tensor, clip: float) -> Tensor:
    """Return ``min(pi(a | x, w) / p, clip)``, shape (n,)."""
    return (probability / propensity).clamp(max=clip)


def sample_actions(log_probabilities: Tensor) -> Tensor:
    """Return one draw per row of log-probabilities (n, K), shape (n, 1), by the Gumbel-max trick.

    Unlike ``torch.multinomial`` it lets NaN pass, so that the loss shows it and the step can be named.
    """
    exponential = torch.empty_like(log_probabilities).exponential_().clamp_min(1e-30)
    return (log_probabilities - exponential.log()).argmax(dim=1, keepdim=True)


def batch_baseline(reward: Tensor, preference: Tensor, weight: Tensor, kind: str) -> Tensor:
    """Return the reward that the batch leads to expect, shape (n,).

    Args:
        reward: shape (n,).
        preference: shape (n, 2).
        weight: shape (n,), importance of each example.
        kind: ``mean``, the (weighted) batch mean as published; or ``preference``, a weighted least-squares fit
            of the batch's rewards on 1, w_quality, w_quality^2. Rewards range over [-1, 1] mostly because the
            preference does, which no action can help: taking that part out leaves less noise in the gradient.
    """
    if kind == "mean":
        return ((weight * reward).sum() / weight.sum().clamp_min(1e-8)).expand_as(reward)
    w_quality = preference[:, :1]
    features = torch.cat([torch.ones_like(w_quality), w_quality, w_quality**2], dim=1)
    weighted = features * weight[:, None]
    # A touch of ridge keeps batches of one or two examples solvable.
    ridge = 1e-3 * torch.eye(features.shape[1], device=reward.device)
    return features @ torch.linalg.solve(weighted.T @ features + ridge, weighted.T @ reward)


class BarpLearner(EpochLearner):
    """Draws a preference for each example on every pass and recomputes the reward from score and cost.

    Simulated online: a fresh action is drawn from the current policy among the observed entries of the prompt's
    row, and that entry alone is revealed. Logged: the logged action's gradient is weighted by the clipped ratio
    of the policy's probability to the logged propensity.
    """

    def attach(self, columns: dict[str, Tensor]) -> None:
        """Take the training columns and standardise the network's input by them."""
        super().attach(columns)
        self.module[DEFAULT_MODULE_ID].unwrapped().network.standardise(self.columns["embeddings"])
        costs = (self.columns["costs_usd"] / self.config.tau_usd).clamp(max=1.0)
        self.columns["cost_terms"] = costs
        if self.config.mode == "simulated_online":
            self.columns["allowed"] = torch.isfinite(self.columns["scores"]) & torch.isfinite(costs)
        else:
            self.columns["allowed"] = self.columns["eligible"]
        self._statistics: list[Tensor] = []

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Register Adam with decoupled weight decay."""
        parameters = self.get_parameters(self._module[module_id])
        optimizer = torch.optim.AdamW(parameters, weight_decay=self.config.weight_decay)
        self.register_optimizer(
            module_id=module_id, optimizer=optimizer, params=parameters, lr_or_lr_schedule=config.lr
        )

    def minibatch(self, rows: Tensor) -> dict[str, Any]:
        """Return embeddings, fresh preferences, allowed models and the outcomes of the rows."""
        batch: dict[str, Any] = {
            name: values[rows]
            for name, values in self.columns.items()
            if name not in ("embeddings", "costs_usd")
        }
        preference = uniform_preferences(len(rows), rows.device)
        batch[Columns.OBS] = {"embedding": self.columns["embeddings"][rows], "preference": preference}
        return batch

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """Return ``mean(-rho (r - b) log pi(a | x, w) - beta H(pi))``."""
        logits = fwd_out[Columns.ACTION_DIST_INPUTS].masked_fill(~batch["allowed"], MASKED_LOGIT)
        log_probabilities = torch.log_softmax(logits, dim=1)
        probabilities = log_probabilities.exp()
        if self.config.mode == "simulated_online":
            action = sample_actions(log_probabilities.detach())
            score, cost_term = (
                batch["scores"].gather(1, action)[:, 0],
                batch["cost_terms"].gather(1, action)[:, 0],
            )
        else:
            action = batch["actions"][:, None]
            score, cost_term = batch["scores"], batch["cost_terms"]
        w = batch[Columns.OBS]["preference"]
        reward = w[:, 0] * score - w[:, 1] * cost_term
        log_probability = log_probabilities.gather(1, action)[:, 0]
        if self.config.mode == "simulated_online":
            rho = torch.ones_like(reward)
        else:
            rho = importance_weights(
                log_probability.detach().exp(), batch["propensities"], self.config.importance_clip
            )
        advantage = reward - batch_baseline(reward, w, rho, self.config.baseline)
        mean_reward = (rho * reward).sum() / rho.sum().clamp_min(1e-8)
        entropy = -(probabilities * log_probabilities).sum(dim=1).mean()
        self._statistics.append(torch.stack([mean_reward, entropy.detach()]))
        return -(rho * advantage * log_probability).mean() - self.config.entropy_coeff * entropy

    def log_epoch(self, losses: Tensor) -> None:
        """Log the epoch's mean loss, reward and entropy, and the first step whose loss was not finite."""
        reward, entropy = torch.stack(self._statistics).mean(dim=0).tolist()
        self._statistics.clear()
        self.log_losses(losses, train_reward=reward, entropy=entropy)
