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
    """

    scores: Float64Array | None
    costs_usd: Float64Array


def expectations(
    bundle: RouterBundle, embeddings: npt.NDArray[np.float32], prompt_tokens: Float64Array
) -> Expectations:
    """Return what the policy expects of prompts given by embeddings, shape (n, d), and lengths, shape (n,)."""
    costs = bundle.cost_model.expected_costs_usd(prompt_tokens, len(embeddings))
    # Neither scores nor costs depend on the preference.
    rows = [bundle.policy.judge(e, (0.5, 0.5), float(t)) for e, t in zip(embeddings, prompt_tokens)]
    judged = [row for row in rows if row is not None]
    if not judged:
        return Expectations(None, costs)
    scores = np.stack([row.scores for row in judged])
    own = [row.costs_usd for row in judged if row.costs_usd is not None]
    return Expectations(scores, np.stack(own) if own else costs)
