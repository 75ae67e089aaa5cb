"""What a trial is judged by: its decisions on the validation prompts, over the dial, at the run's own tau."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from policies.barp.network import BarpNetwork
from policies.barp.validation import DialValidator
from policies.base import Policy
from policies.metrics.dial import max_cost_rise
from policies.rllib.columns import TRAIN, VALIDATION, open_columns


@dataclass(frozen=True)
class Judgement:
    """Quality of a policy on validation prompts.

    Attributes:
        reward: mean reward of greedy decisions over prompts and dial settings, at the reference tau; NaN when
            a logit is not finite.
        cost_rise: largest rise of the mean cost term from one dial setting to the next, relative to the dearest
            model's mean cost term; 0 for a monotone dial.
        largest_share: largest share of all decisions that goes to one model, in [1 / K, 1]; 1 means collapse.
    """

    reward: float
    cost_rise: float
    largest_share: float


@dataclass(frozen=True)
class Jury:
    """Validation prompts with an estimate of every model's score and cost term.

    Full information gives the observed ones, a log the doubly robust ones: nothing but the log is read then.

    Attributes:
        validator: estimates at the reference tau, dial and allowed models.
    """

    validator: DialValidator

    @classmethod
    def of(cls, arrays: Path, reference_tau_usd: float) -> Jury:
        """Open the validation columns of a search's arrays."""
        validation, train = open_columns(arrays / VALIDATION), open_columns(arrays / TRAIN)
        return cls(DialValidator.of(validation, train, reference_tau_usd))

    def judge_network(self, network: BarpNetwork) -> Judgement:
        """Judge a network of logits, all preferences at once."""
        actions = self.validator.decisions(network)
        return Judgement(math.nan, math.nan, math.nan) if actions is None else self._judge(actions)

    def judge_policy(self, policy: Policy) -> Judgement:
        """Judge any policy's greedy decisions."""
        return self._judge(self.validator.decisions_of(policy))

    def _judge(self, actions: Tensor) -> Judgement:
        """Judge decisions, shape (n, settings)."""
        v = self.validator
        shares = torch.bincount(actions.ravel(), minlength=v.allowed.shape[1]) / actions.numel()
        per_model = (v.cost_terms * v.allowed).sum(dim=0) / v.allowed.sum(dim=0).clamp_min(1)
        dearest = float(per_model.max())
        per_setting = v.cost_terms.gather(1, actions).mean(dim=0, dtype=torch.float64).numpy()
        return Judgement(
            reward=v.mean_reward_at(actions),
            cost_rise=max_cost_rise(per_setting, dearest) if dearest > 0.0 else 0.0,
            largest_share=float(shares.max()),
        )
