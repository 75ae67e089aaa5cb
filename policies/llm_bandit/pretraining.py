"""Supervised pretraining of the set policy (LLM Bandit, arXiv 2502.02743, stage 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from policies.llm_bandit.contexts import DecisionTable
from policies.llm_bandit.sampling import SetSampler
from policies.llm_bandit.set_network import SetPolicyNetwork, normalised


@dataclass(frozen=True)
class PretrainSettings:
    """Supervised steps before reinforcement learning.

    Attributes:
        steps: gradient steps.
        batch_size: decisions in a step.
        preferences_per_set: decisions that share a prompt and a candidate set.
        lr: learning rate of Adam.
    """

    steps: int = 500
    batch_size: int = 1024
    preferences_per_set: int = 8
    lr: float = 1e-3


def pretrain(
    network: SetPolicyNetwork,
    table: DecisionTable,
    sampler: SetSampler,
    settings: PretrainSettings,
    *,
    seed: int,
    record: Callable[[dict[str, float]], None] = lambda line: None,
) -> None:
    """Train in place: policy towards ``argmax_k w . [p_bar_k, -c_bar_k]``, value towards what that decision is paid.

    p_bar is the calibrated prediction; scores and costs are normalised within the set if the network's are.
    """
    rng = np.random.default_rng([seed, 1])
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.lr)
    sets = max(1, settings.batch_size // settings.preferences_per_set)
    usable = np.flatnonzero(table.available.any(axis=1))
    network.train()
    for step in range(1, settings.steps + 1):
        rows = usable[rng.integers(0, len(usable), sets)]
        columns, mask = sampler.candidates(table.available[rows], rng)
        arms = torch.from_numpy(table.arms(rows, columns))
        w = torch.from_numpy(sampler.preferences(sets, settings.preferences_per_set, rng))
        seen = torch.from_numpy(mask)
        logits, values = network(torch.from_numpy(table.inputs[rows]), arms, seen, w)
        kind = network.shape.normalisation
        scores, costs = normalised(arms[..., -1], arms[..., -2], seen, kind)
        predicted = w @ torch.stack([scores, -costs], dim=1)
        target = predicted.masked_fill(~seen[:, None, :], -torch.inf).argmax(dim=2)
        at = rows[:, None]
        paid_scores, paid_costs = normalised(
            torch.from_numpy(table.paid_scores[at, columns]),
            torch.from_numpy(table.paid_cost_terms[at, columns]),
            seen,
            kind,
        )
        earned = torch.stack([paid_scores.gather(1, target), paid_costs.gather(1, target)], dim=2)
        imitation = functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        value_loss = ((earned - values[:, None, :]) ** 2).mean()
        optimiser.zero_grad(set_to_none=True)
        (imitation + value_loss).backward()
        optimiser.step()
        if step == settings.steps or step % 50 == 0:
            record({"step": step, "imitation_loss": imitation.item(), "value_loss": value_loss.item()})
    network.eval()
