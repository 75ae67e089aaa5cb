"""Every policy kind by name: what artifacts are loaded with. Explicit, so that importing has no side effects."""

from __future__ import annotations

from importlib import import_module

from policies.base import Policy
from policies.errors import InputError

POLICY_CLASSES: dict[str, str] = {
    "always": "policies.constants:AlwaysPolicy",
    "random": "policies.constants:RandomPolicy",
    "best_single": "policies.constants:BestSinglePolicy",
    "barp": "policies.barp.policy:BarpPolicy",
    "outcome_model": "policies.outcome_model.policy:OutcomeModelPolicy",
    "llm_bandit": "policies.llm_bandit.policy:LlmBanditPolicy",
    "knn": "policies.baselines.knn:KnnPolicy",
    "ridge": "policies.baselines.ridge:RidgePolicy",
    "logistic": "policies.baselines.logistic:LogisticPolicy",
    "mlp": "policies.baselines.mlp:MlpPolicy",
    "clusters": "policies.baselines.clusters:ClusterPolicy",
    "matrix_factorisation": "policies.baselines.matrix_factorisation:MatrixFactorisationPolicy",
    "carrot": "policies.baselines.carrot:CarrotPolicy",
    "direct": "policies.baselines.direct:DirectPolicy",
    "epsilon_greedy": "policies.baselines.linear_arms:EpsilonGreedyPolicy",
    "linucb": "policies.baselines.linear_arms:LinUcbPolicy",
    "thompson": "policies.baselines.linear_arms:ThompsonPolicy",
}
"""Policy kind -> ``module:class``; classes are imported on first use."""


def policy_class(kind: str) -> type[Policy]:
    """Return the policy class of a kind.

    Raises:
        InputError: no such kind.
    """
    if kind not in POLICY_CLASSES:
        raise InputError(f"unknown policy kind '{kind}'; allowed: {', '.join(sorted(POLICY_CLASSES))}")
    module, _, name = POLICY_CLASSES[kind].partition(":")
    return getattr(import_module(module), name)
