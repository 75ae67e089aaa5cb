"""Which routers a report compares, and the decisions they make over the dial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from policies.base import Policy, greedy
from policies.bundle import RouterBundle
from policies.constants import AlwaysPolicy, BestSinglePolicy, OraclePolicy, RandomPolicy
from policies.datasets import OutcomeMatrix
from policies.preference import preferences_from_w_cost

FloatArray = npt.NDArray[np.floating]

POLICY = "policy"
BEST_SINGLE = "best_single"
RANDOM = "random"
ORACLE = "oracle"
ALWAYS_PREFIX = "always:"


@dataclass(frozen=True)
class Router:
    """One row of the comparison.

    Attributes:
        name: key in ``metrics.json``.
        label: what tables and charts call it.
        policy: the decision rule.
        role: ``policy`` is the run's own, ``baseline`` learned from the same data, ``reference`` learns (next
            to) nothing, ``single`` always calls one model, ``bound`` knows the answers.
        expected: score the policy's probabilities in expectation instead of its most probable model; for
            routers whose randomness is the point.
    """

    name: str
    label: str
    policy: Policy
    role: Literal["policy", "baseline", "reference", "single", "bound"]
    expected: bool = False


def compared_routers(
    bundle: RouterBundle, training: OutcomeMatrix, tau_usd: float, baselines: Sequence[Router] = ()
) -> list[Router]:
    """Return every router that is scored on each split, the run's policy first.

    Args:
        bundle: the run's artifact.
        training: completely observed training prompts, for the routers that are fitted here.
        tau_usd: cost scale in USD.
        baselines: routers that learned from the same data.
    """
    models = bundle.pool.models
    best_single = BestSinglePolicy.fit(models, training.scores, training.costs_usd, tau_usd)
    return [
        Router(POLICY, bundle.policy.kind, bundle.policy, "policy"),
        *baselines,
        Router(BEST_SINGLE, "best single per preference", best_single, "reference"),
        Router(RANDOM, "random", RandomPolicy(models), "reference", expected=True),
        *(Router(f"{ALWAYS_PREFIX}{m}", f"always {m}", AlwaysPolicy(models, m), "single") for m in models),
    ]


def oracle_router(data: OutcomeMatrix, tau_usd: float) -> Router:
    """Return the oracle of these very prompts (completely observed)."""
    oracle = OraclePolicy(data.pool.models, data.scores, data.costs_usd, tau_usd)
    return Router(ORACLE, "oracle", oracle, "bound")


def dial_probabilities(router: Router, data: OutcomeMatrix, w_cost: FloatArray) -> npt.NDArray[np.float64]:
    """Return what the router does at each dial setting, shape (n_settings, n_prompts, n_models).

    One-hot rows of the most probable model, or the probabilities themselves for ``expected`` routers.
    """
    decided = np.empty((len(w_cost), len(data), len(data.pool.models)))
    dial = preferences_from_w_cost(w_cost)
    given = router.policy.over_dial(data.embeddings, dial, prompt_tokens=data.prompt_tokens)
    for s, probabilities in enumerate(given):
        decided[s] = probabilities if router.expected else greedy(probabilities)
    return decided
