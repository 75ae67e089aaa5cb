"""The cost-quality picture of a policy: every model and the policy along the dial, as means over prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from policies.base import greedy
from policies.metrics.hull import mix_line
from policies.preference import preferences_from_w_cost
from serve.console.answers import AlwaysBest, ModelPicture, PolicyPicture
from serve.console.expectations import expectations
from serve.decider import Decider

Float64Array = npt.NDArray[np.float64]

DIAL = tuple(step / 40 for step in range(41))
"""The settings that are shown: steps of 0.025, which the slider takes too."""


@dataclass(frozen=True)
class Contexts:
    """The prompts that a picture is drawn over.

    Attributes:
        source: ``traffic`` or ``samples``.
        embeddings: shape (n, d).
        prompt_tokens: shape (n,).
    """

    source: Literal["traffic", "samples"]
    embeddings: npt.NDArray[np.float32]
    prompt_tokens: Float64Array


@dataclass(frozen=True)
class Picture:
    """A policy's picture.

    Attributes:
        models: in the pool's order.
        policy: along :data:`DIAL`.
        mix_line: vertices (cost, score), None without scores.
        always_best: what savings are measured against.
        prompts: how many prompts it is drawn over.
    """

    models: list[ModelPicture]
    policy: PolicyPicture
    mix_line: list[tuple[float, float]] | None
    always_best: AlwaysBest
    prompts: int


def picture(decider: Decider, contexts: Contexts, *, sample: bool) -> Picture | None:
    """Return the picture of a policy over some prompts, None when no prompt fits any model.

    Prompts that fit no model's context window are left out; a model is placed by all the others, so that the
    models are compared on the same prompts.

    Args:
        decider: whose policy is drawn.
        contexts: the prompts.
        sample: whether the endpoint draws from the policy rather than take its most probable model.
    """
    bundle = decider.bundle
    names = bundle.pool.models
    windows = np.array([spec.context_window_tokens or np.inf for spec in bundle.pool.specs])
    eligible = contexts.prompt_tokens[:, None] <= windows[None, :]
    fits = eligible.any(axis=1)
    if not fits.any():
        return None
    embeddings, tokens, eligible = contexts.embeddings[fits], contexts.prompt_tokens[fits], eligible[fits]
    n = len(tokens)
    expected = expectations(bundle, embeddings, tokens)
    shares = np.zeros((len(DIAL), len(names)))
    costs, scores = np.zeros(len(DIAL)), np.zeros(len(DIAL))
    dial = preferences_from_w_cost(np.array(DIAL))
    for i, given in enumerate(bundle.policy.over_dial(embeddings, dial, eligible, prompt_tokens=tokens)):
        p = given if sample else greedy(given)
        shares[i] = p.mean(axis=0)
        costs[i] = (p * expected.costs_usd).sum(axis=1).mean()
        if expected.scores is not None:
            scores[i] = (p * expected.scores).sum(axis=1).mean()
    single_costs = expected.costs_usd.mean(axis=0)
    single_scores = None if expected.scores is None else expected.scores.mean(axis=0)
    models = [
        ModelPicture(
            id=name,
            expected_score=None if single_scores is None else float(single_scores[k]),
            expected_cost_usd=float(single_costs[k]),
            shares=shares[:, k].tolist(),
        )
        for k, name in enumerate(names)
    ]
    policy = PolicyPicture(
        expected_score=None if single_scores is None else scores.tolist(), expected_cost_usd=costs.tolist()
    )
    line = None
    if single_scores is not None:
        line = [(float(cost), float(score)) for cost, score in mix_line(single_costs, single_scores)]
    best = decider.best(np.ones(len(names), dtype=bool), single_costs)
    always_best = AlwaysBest(
        model=names[best],
        expected_score=models[best].expected_score,
        expected_cost_usd=models[best].expected_cost_usd,
    )
    return Picture(models, policy, line, always_best, n)
