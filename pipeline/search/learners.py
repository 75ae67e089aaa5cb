"""Which learners can be searched: the few things that the search must know of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline import train_barp, train_outcome_model
from pipeline.config import TradewindConfig
from pipeline.config.llm_bandit import LlmBanditSettings
from pipeline.config.policy import BarpConfig, OutcomeModelSettings
from pipeline.config.tune import Choices, Dimension, Interval
from pipeline.search.llm_bandit import llm_bandit_config, llm_bandit_policy, llm_bandit_space
from pipeline.search.objective import Judgement, Jury
from policies.barp.policy import BarpPolicy
from policies.base import Policy
from policies.errors import InputError
from policies.pool import ModelPool
from policies.rllib.offline import OfflineConfig


@dataclass(frozen=True)
class SearchableLearner:
    """What a search needs of a learner besides its configuration keys.

    Attributes:
        algorithm_config: ``(config, tau_usd, arrays, embedding_dim, pool)`` -> RLlib's configuration; ``arrays`` is
            the folder of memory-mapped columns that all trials share. Its algorithm's ``train()`` is one epoch.
        judge: ``(jury, algorithm, models) -> Judgement`` of the current weights.
        policy: ``(algorithm, models) -> Policy`` of the current weights.
        epochs: longest training of a configuration.
        patience_epochs: epochs without a better one after which a trial stops, infinite where it never does.
        space: default search space of a configuration.
        keeps_best: whether training returns its best epoch (then a trial counts by that) or its last.
        takes_comparisons: whether it learns from pairwise comparisons too; they lie beside the columns.
    """

    algorithm_config: Callable[[TradewindConfig, float, str, int, ModelPool], Any]
    judge: Callable[[Jury, Any, tuple[str, ...]], Judgement]
    policy: Callable[[Any, tuple[str, ...]], Policy]
    epochs: Callable[[TradewindConfig], int]
    patience_epochs: Callable[[TradewindConfig], float]
    space: Callable[[TradewindConfig], dict[str, Dimension]]
    keeps_best: bool
    takes_comparisons: bool = False


def searchable(name: str) -> SearchableLearner:
    """Return the learner of a ``policy.name``.

    Raises:
        InputError: that policy is not trained by gradient epochs, so there is nothing to search.
    """
    if name not in LEARNERS:
        raise InputError(f"policy={name}: cannot be searched; allowed: {', '.join(LEARNERS)}")
    return LEARNERS[name]


def barp_space(config: TradewindConfig) -> dict[str, Dimension]:
    """Return BaRP's search space: cost scale, optimiser, regularisation, shape and, for logs, clipping."""
    space: dict[str, Dimension] = {
        "train.tau_quantile": Interval(low=0.6, high=0.995),
        "policy.lr": Interval(low=1e-4, high=1e-2, log=True),
        "policy.entropy_coeff": Interval(low=1e-3, high=0.2, log=True),
        "policy.weight_decay": Interval(low=1e-4, high=1.0, log=True),
        "policy.batch_size": Choices(choices=(64, 128, 256, 512)),
        "policy.dropout": Interval(low=0.0, high=0.6),
        "policy.input_std": Interval(low=0.02, high=1.0, log=True),
    }
    if getattr(config.policy, "head", None) == "mlp":
        space["policy.hidden"] = Choices(choices=((128,), (256,), (512,), (256, 128)))
    if config.train.mode == "logged":
        space["policy.importance_clip"] = Interval(low=1.0, high=100.0, log=True)
    return space


def outcome_model_space(config: TradewindConfig) -> dict[str, Dimension]:
    """Return the outcome model's search space: cost scale, optimiser, width and regularisation of the mode."""
    mode = f"policy.{config.train.mode}"
    return {
        "train.tau_quantile": Interval(low=0.8, high=0.995),
        "policy.lr": Interval(low=3e-4, high=1e-2, log=True),
        "policy.components": Choices(choices=(32, 64, 128)),
        "policy.input_dropout": Interval(low=0.0, high=0.4),
        "policy.length_weight": Interval(low=0.05, high=1.0, log=True),
        f"{mode}.hidden": Choices(choices=(32, 64, 128, 256)),
        f"{mode}.dropout": Interval(low=0.0, high=0.6),
        f"{mode}.weight_decay": Interval(low=1e-3, high=5.0, log=True),
        f"{mode}.interaction_decay": Interval(low=1e-2, high=20.0, log=True),
        f"{mode}.topic_share": Interval(low=0.0, high=0.8),
    }


def _outcome_model_config(
    config: TradewindConfig, tau_usd: float, arrays: str, embedding_dim: int, pool: ModelPool
) -> OfflineConfig:
    prices = tuple(float(price) for price in pool.prices_per_token_usd[:, 0])
    return train_outcome_model.algorithm_config(config, tau_usd, arrays, embedding_dim, prices)


def _barp(config: TradewindConfig) -> BarpConfig:
    assert isinstance(config.policy, BarpConfig)
    return config.policy


def _llm_bandit(config: TradewindConfig) -> LlmBanditSettings:
    assert isinstance(config.policy, LlmBanditSettings)
    return config.policy


def _outcome_model_epochs(config: TradewindConfig) -> int:
    assert isinstance(config.policy, OutcomeModelSettings)
    return getattr(config.policy, config.train.mode).epochs


LEARNERS: dict[str, SearchableLearner] = {
    "barp": SearchableLearner(
        algorithm_config=lambda config, tau_usd, arrays, dim, pool: train_barp.algorithm_config(
            config, tau_usd, arrays, dim, len(pool.models)
        ),
        judge=lambda jury, algorithm, models: jury.judge_network(algorithm.network()),
        policy=lambda algorithm, models: BarpPolicy(models, algorithm.network()),
        epochs=lambda config: _barp(config).max_epochs,
        patience_epochs=lambda config: _barp(config).patience_epochs,
        space=barp_space,
        keeps_best=True,
    ),
    "outcome_model": SearchableLearner(
        algorithm_config=_outcome_model_config,
        judge=lambda jury, algorithm, models: jury.judge_policy(algorithm.policy(models)),
        policy=lambda algorithm, models: algorithm.policy(models),
        epochs=_outcome_model_epochs,
        patience_epochs=lambda config: math.inf,
        space=outcome_model_space,
        keeps_best=False,
    ),
    "llm_bandit": SearchableLearner(
        algorithm_config=llm_bandit_config,
        judge=lambda jury, algorithm, models: jury.judge_policy(llm_bandit_policy(algorithm)),
        policy=lambda algorithm, models: llm_bandit_policy(algorithm),
        epochs=lambda config: max(1, _llm_bandit(config).ppo.iterations),
        patience_epochs=lambda config: math.inf,
        space=llm_bandit_space,
        keeps_best=True,
        takes_comparisons=True,
    ),
}
"""By ``policy.name``."""
