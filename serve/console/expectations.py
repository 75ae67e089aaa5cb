"""What a policy expects of every model, where it predicts that at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from policies.bundle import RouterBundle

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Expectations:
    """Expected outcomes of n prompts on K models.

    Attributes:
        scores: shape (n, K), None when the policy predicts none.
        costs_usd: shape (n, K), USD per call.
        latencies_s: shape (n, K) or None.
    """

    scores: Float64Array | None
    costs_usd: Float64Array
    latencies_s: Float64Array | None


def expectations(
    bundle: RouterBundle, embeddings: npt.NDArray[np.float32], prompt_tokens: Float64Array
) -> Expectations:
    """Return what the policy expects of prompts given by embeddings, shape (n, d), and lengths, shape (n,)."""
    predict = getattr(bundle.policy, "expected_outcomes", None)
    scores = None if predict is None else predict(embeddings, prompt_tokens).scores
    costs = bundle.cost_model.expected_costs_usd(prompt_tokens, len(embeddings))
    return Expectations(scores, costs, None)
