"""A bundle whose policy predicts scores, with a model whose name tries to be markup."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from policies.baselines.ridge import RidgePolicy
from policies.bundle import EncoderIdentity, RouterBundle
from policies.costs import CostModel
from policies.pool import ModelPool, ModelSpec

HOSTILE = "<img src=x onerror=document.title='owned'>"
POOL = ModelPool(
    "four",
    (
        ModelSpec("large", 3.0, 15.0, context_window_tokens=100_000),
        ModelSpec("medium", 0.5, 1.5, context_window_tokens=4_000),
        ModelSpec(HOSTILE, 0.2, 0.6, context_window_tokens=4_000),
        ModelSpec("tiny", 0.05, 0.1, context_window_tokens=100),
    ),
)


def save_scored_bundle(directory: Path, encoder: EncoderIdentity) -> None:
    """Write a bundle of linear scores that rise with price and vary with the prompt."""
    rng = np.random.default_rng(3)
    scores = np.vstack([rng.normal(scale=0.4, size=(encoder.dimension, 4)), [[0.85, 0.7, 0.6, 0.35]]])
    answers_usd = POOL.prices_per_token_usd[:, 1] * 200
    costs = np.vstack([np.zeros((encoder.dimension, 4)), answers_usd[None, :] / 0.003])
    policy = RidgePolicy(POOL.models, scores, costs)
    cost_model = CostModel(POOL.prices_per_token_usd, 50.0, answers_usd)
    RouterBundle(policy, POOL, encoder, cost_model, tau_usd=0.003).save(directory)
