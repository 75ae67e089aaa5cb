"""What a trial is judged by: its decisions on the validation prompts, over the dial, at the run's own tau."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from policies.barp.learner import MASKED_LOGIT
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
        prompt_tokens: shape (n,), of the validator's prompts.
    """

    validator: DialValidator
    prompt_tokens: Tensor

    @classmethod
    def of(cls, arrays: Path, reference_tau_usd: float) -> Jury:
        """Open the validation columns of a search's arrays."""
        columns = open_columns(arrays / VALIDATION)
        # The validator leaves prompts out; their lengths ride along as one more entry of the vector.
        columns["embeddings"] = torch.cat([columns["embeddings"], columns["prompt_tokens"][:, None]], dim=1)
        validator = DialValidator.of(columns, open_columns(arrays / TRAIN), reference_tau_usd)
        embeddings, tokens = validator.embeddings[:, :-1].contiguous(), validator.embeddings[:, -1]
        return cls(replace(validator, embeddings=embeddings), tokens)

    def judge_network(self, network: BarpNetwork) -> Judgement:
        """Judge a network of logits, all preferences at once."""
        with torch.inference_mode():
            logits = network.dial_logits(self.validator.embeddings, self.validator.preferences)
            if not torch.isfinite(logits).all():
                return Judgement(math.nan, math.nan, math.nan)
            masked = logits.masked_fill(~self.validator.allowed[:, None, :], MASKED_LOGIT)
            return self._judge(masked.argmax(dim=2))

    def judge_policy(self, policy: Policy) -> Judgement:
        """Judge any policy's greedy decisions."""
        embeddings, allowed = self.validator.embeddings.numpy(), self.validator.allowed.numpy()
        tokens = self.prompt_tokens.numpy().astype(np.float64)
        decided = []
        for preference in self.validator.preferences.numpy():
            w = np.broadcast_to(preference, (len(embeddings), 2))
            p = policy.action_probabilities(embeddings, w, allowed, prompt_tokens=tokens)
            decided.append(torch.from_numpy(p.argmax(axis=1)))
        return self._judge(torch.stack(decided, dim=1))

    def _judge(self, action: Tensor) -> Judgement:
        """Judge decisions, shape (n, settings)."""
        v = self.validator
        score, cost_term = v.scores.gather(1, action), v.cost_terms.gather(1, action)
        reward = v.preferences[:, 0] * score - v.preferences[:, 1] * cost_term
        shares = torch.bincount(action.ravel(), minlength=v.allowed.shape[1]) / action.numel()
        per_model = (v.cost_terms * v.allowed).sum(dim=0) / v.allowed.sum(dim=0).clamp_min(1)
        dearest = float(per_model.max())
        per_setting = cost_term.mean(dim=0, dtype=torch.float64).numpy()
        return Judgement(
            reward=float(reward.mean(dtype=torch.float64)),
            cost_rise=max_cost_rise(per_setting, dearest) if dearest > 0.0 else 0.0,
            largest_share=float(shares.max()),
        )
