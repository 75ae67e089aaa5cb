"""One prompt decided over the whole dial, with what speaks for and against every model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from serve.console.answers import ExplainAnswer, ModelExplanation
from serve.console.expectations import expectations
from serve.console.picture import DIAL
from serve.latency import Latencies
from serve.question import Constraints
from serve.releases import Release


def explain(
    release: Release,
    embedding: npt.NDArray[np.float32],
    prompt_tokens: int,
    constraints: Constraints,
    unhealthy: Mapping[str, str],
    latencies: Latencies,
) -> ExplainAnswer:
    """Return the decisions of one prompt at every setting of the dial, from one call of the policy.

    Args:
        release: decides.
        embedding: shape (d,).
        prompt_tokens: length of what the model would be sent.
        constraints: what rules models out.
        unhealthy: models that cannot be called now, and why.
        latencies: what recent calls took.

    Raises:
        UnknownModelsError: the constraints name models that the pool does not have.
        NoEligibleModelError: every model is ruled out.
    """
    bundle = release.bundle
    names = bundle.pool.models
    expected = expectations(bundle, embedding[None, :], np.array([float(prompt_tokens)]))
    latencies_s = release.decider.latencies_s(latencies)
    mask, reasons = release.decider.eligibility.eligible(
        constraints, prompt_tokens, expected.costs_usd[0], latencies_s, unhealthy
    )
    n = len(DIAL)
    w_cost = np.array(DIAL)
    probabilities = bundle.policy.action_probabilities(
        np.repeat(embedding[None, :], n, axis=0),
        np.stack([1.0 - w_cost, w_cost], axis=1).astype(np.float32),
        np.repeat(mask[None, :], n, axis=0),
        prompt_tokens=np.full(n, float(prompt_tokens)),
    )
    models = [
        ModelExplanation(
            id=name,
            eligible=bool(mask[k]),
            reason=None if mask[k] else reasons.get(name, "not among the models to choose from"),
            expected_score=None if expected.scores is None else float(expected.scores[0, k]),
            expected_cost_usd=float(expected.costs_usd[0, k]),
            expected_latency_s=latencies_s[k],
            probabilities=probabilities[:, k].tolist(),
        )
        for k, name in enumerate(names)
    ]
    return ExplainAnswer(
        policy_version=bundle.policy_version,
        prompt_tokens=prompt_tokens,
        w_cost=list(DIAL),
        chosen=[names[k] for k in probabilities.argmax(axis=1)],
        models=models,
    )
