"""Who proposes points and who decides which trials go on."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from ray import tune
from ray.tune.experiment import Trial
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
    """ASHA that lets one point run to its end, and that a resumed search finds as it was.

    The spared point is the configuration as it is, which gains are measured against. Tune restores trials and
    searchers, not schedulers: with empty rungs any trial would pass for the best, so they are kept in a file.

    Args:
        spared: the point.
        memory: file of the rungs, read if it exists.
        **settings: see ``ASHAScheduler``.
    """

    def __init__(self, spared: dict[str, Any], memory: Path, **settings: Any) -> None:
        super().__init__(**settings)
        self._spared, self._memory = spared, memory

    @property
    def rungs(self) -> list[dict[str, float]]:
        """Rewards by trial of each rung, the last rung first."""
        return [recorded for _, recorded in self._brackets[0]._rungs]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take the trial in; the first brings the rungs of before an interruption back."""
        super().on_trial_add(tune_controller, trial)
        if self._memory.exists() and not any(self.rungs):
            for recorded, known in zip(self.rungs, json.loads(self._memory.read_text()), strict=True):
                recorded.update(known)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Count the result; stop all but the spared trial."""
        before = [len(recorded) for recorded in self.rungs]
        decision = super().on_trial_result(tune_controller, trial, result)
        if [len(recorded) for recorded in self.rungs] != before:
            _write_json(self._memory, self.rungs)
        spared = all(trial.config.get(key) == value for key, value in self._spared.items())
        return TrialScheduler.CONTINUE if spared and result[self._time_attr] < self._max_t else decision


class RememberingPB2(PB2):
    """PB2 whose Gaussian process keeps what it has seen when a search is resumed, and whose trials take turns.

    Args:
        memory: file of the observations, read if it exists.
        **settings: see ``PB2``.
    """

    def __init__(self, memory: Path, **settings: Any) -> None:
        super().__init__(**settings)
        self._memory = memory
        self._results = count()
        self._last_result: dict[str, int] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Count the result as the trial's turn."""
        self._last_result[trial.trial_id] = next(self._results)
        return super().on_trial_result(tune_controller, trial, result)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Return the waiting trial whose turn is longest ago, or None.

        Ray takes the one that has trained least, and a trial that takes over has trained as long as its donor: with
        more trials than slots, one that loses each time would be taken for ever and the others never.
        """
        waiting = [t for t in tune_controller.get_trials() if t.status in (Trial.PENDING, Trial.PAUSED)]
        return min(waiting, key=lambda trial: self._last_result.get(trial.trial_id, -1), default=None)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take the trial in; the first brings the observations of before an interruption back."""
        super().on_trial_add(tune_controller, trial)
        if self._memory.exists() and self.data.empty:
            self.data: pd.DataFrame = pd.DataFrame(json.loads(self._memory.read_text()))

    def _save_trial_state(self, state: Any, time: int, result: dict[str, Any], trial: Any) -> None:
        super()._save_trial_state(state, time, result, trial)
        _write_json(self._memory, self.data.to_dict(orient="list"))


def _write_json(path: Path, body: Any) -> None:
    staging = path.with_name(path.name + ".tmp")
    staging.write_text(json.dumps(body))
    staging.replace(path)


def checkpoints(config: TradewindConfig) -> tune.CheckpointConfig:
    """Return how often trials are written down."""
    settings = config.tune
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


def scheduler(config: TradewindConfig, space: SearchSpace, memory: Path) -> TrialScheduler:
    """Return who decides which trials go on; ``memory`` is the file that a resumed search finds its state in."""
    settings = config.tune
    if settings.scheduler == "none":
        return FIFOScheduler()
    if settings.scheduler == "pb2":
        return RememberingPB2(
            memory,
            time_attr="training_iteration",
            metric="epoch_reward",
            mode="max",
            perturbation_interval=settings.grace_epochs,
            hyperparam_bounds=space.bounds(),
        )
    return SparingAsha(
        space.point_of(config),
        memory,
        time_attr="training_iteration",
        metric="reward",
        mode="max",
        max_t=max(_max_epochs(config), settings.grace_epochs),
        grace_period=settings.grace_epochs,
        reduction_factor=settings.reduction_factor,
    )


def _max_epochs(config: TradewindConfig) -> int:
    return config.tune.max_epochs or searchable(config.policy.name).epochs(config)
