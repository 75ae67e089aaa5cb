"""Who proposes points and who decides which trials go on."""

from __future__ import annotations

from typing import Any

import optuna
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.schedulers.pb2 import PB2
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher
from ray.tune.search.optuna import OptunaSearch

from pipeline.config import TradewindConfig
from pipeline.search.learners import searchable
from pipeline.search.space import SearchSpace

MODES = {"reward": "max", "cost_rise": "min", "largest_share": "min"}
"""Objective -> direction."""


class SparingAsha(ASHAScheduler):
    """ASHA that lets one point run to its end: the configuration as it is, which gains are measured against.

    Args:
        spared: the point.
        **settings: see ``ASHAScheduler``.
    """

    def __init__(self, spared: dict[str, Any], **settings: Any) -> None:
        super().__init__(**settings)
        self._spared = spared

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Count the result; stop all but the spared trial."""
        decision = super().on_trial_result(tune_controller, trial, result)
        spared = all(trial.config.get(key) == value for key, value in self._spared.items())
        return TrialScheduler.CONTINUE if spared and result[self._time_attr] < self._max_t else decision


def checkpoints(config: TradewindConfig) -> tune.CheckpointConfig:
    """Return how often trials are written down."""
    settings = config.tune
    if not searchable(config.policy.name).restorable:
        return tune.CheckpointConfig()
    if settings.scheduler == "pb2":
        # A donor's latest checkpoint must be one of its current epoch.
        return tune.CheckpointConfig(checkpoint_frequency=settings.grace_epochs)
    return tune.CheckpointConfig(num_to_keep=1, checkpoint_frequency=settings.checkpoint_epochs)


def searcher(config: TradewindConfig, space: SearchSpace) -> Searcher | SearchAlgorithm:
    """Return who proposes points; the configuration as it is comes first."""
    settings, first = config.tune, space.point_of(config)
    if settings.searcher == "random":
        return BasicVariantGenerator(points_to_evaluate=[first], random_state=config.run.seed)
    several = len(settings.objectives) > 1
    metrics = list(settings.objectives) if several else settings.objectives[0]
    modes = [MODES[m] for m in settings.objectives] if several else MODES[settings.objectives[0]]
    sampler = optuna.samplers.TPESampler(
        seed=config.run.seed,
        n_startup_trials=max(2, min(10, settings.num_samples // 3)),
        multivariate=True,
        constant_liar=True,
    )
    return OptunaSearch(
        space.optuna_distributions(), metric=metrics, mode=modes, sampler=sampler, points_to_evaluate=[first]
    )


def scheduler(config: TradewindConfig, space: SearchSpace) -> TrialScheduler:
    """Return who decides which trials go on."""
    settings = config.tune
    if settings.scheduler == "none":
        return FIFOScheduler()
    if settings.scheduler == "pb2":
        return PB2(
            time_attr="training_iteration",
            metric="epoch_reward",
            mode="max",
            perturbation_interval=settings.grace_epochs,
            hyperparam_bounds=space.bounds(),
        )
    return SparingAsha(
        space.point_of(config),
        time_attr="training_iteration",
        metric="reward",
        mode="max",
        max_t=max(_max_epochs(config), settings.grace_epochs),
        grace_period=settings.grace_epochs,
        reduction_factor=settings.reduction_factor,
    )


def _max_epochs(config: TradewindConfig) -> int:
    return config.tune.max_epochs or searchable(config.policy.name).epochs(config)
