"""What RLlib 2.60 needs to train offline on tensors: every private or overridden hook of it lives in this file.

RLlib's own offline path streams episodes through Ray Data at a tenth of a plain loop's speed and cannot be
restored without an environment. Here an epoch is one ``Learner.update`` whose batch carries row numbers only; the
columns themselves stay with the learners.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args

import numpy as np
import ray
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import COMPONENT_LEARNER, DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.offline.offline_data import OfflineData
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import (
    EVALUATION_RESULTS,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    TIMERS,
)
from torch import Tensor

from policies.rllib.columns import TRAIN, open_columns
from policies.rllib.recovery import MAX_LOSSES, LearnerLostError, naming_lost_learners

log = logging.getLogger(__name__)

Result = TypeVar("Result")

ROWS = "rows"
EPOCH = "epoch"

NON_FINITE_STEP = "non_finite_step"
"""Metric: first step of the epoch (from 0) whose loss was not finite; -1 when all were."""


class TrainingDivergedError(RuntimeError):
    """A loss or a weight stopped being finite; the message names epoch and step."""


def epoch_seed(seed: int, epoch: int, learner: int) -> int:
    """Return the seed of one learner's draws in one epoch: a restored run draws what an unbroken one would."""
    return int(np.random.SeedSequence([seed, epoch, learner]).generate_state(1, np.uint64)[0] >> 1)


class TensorOfflineData(OfflineData):
    """Training columns in memory; a sample is a permutation of row numbers.

    ``config.input_`` is ``[DIRECTORY]``, a folder with the sub-folder ``train`` written by
    :func:`policies.rllib.columns.write_columns`.
    """

    def __init__(self, config: AlgorithmConfig) -> None:
        self.config = config
        self.path = Path(config.input_[0])
        self.columns = open_columns(self.path / TRAIN)
        self.n_rows = len(self.columns["embeddings"])
        # Algorithm.setup assigns these; nothing here reads them.
        self.locality_hints = self.learner_handles = self.module_spec = self.spaces = None

    def sample(self, num_samples: int, *, epoch: int = 0, **kwargs: Any) -> MultiAgentBatch:
        """Return ``num_samples`` distinct row numbers in the order of the epoch's permutation."""
        rng = np.random.default_rng([self.config.seed, epoch])
        rows = rng.permutation(self.n_rows)[:num_samples].astype(np.int64)
        return MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch({ROWS: rows})}, env_steps=len(rows))


class EpochLearner(TorchLearner):
    """A learner that holds the columns and runs a whole epoch of minibatches inside one ``update``."""

    columns: dict[str, Tensor]
    _epoch: int = 0

    def attach(self, columns: dict[str, Tensor]) -> None:
        """Take the training columns, moved to this learner's device."""
        self.columns = {name: values.to(self._device) for name, values in columns.items()}

    @abstractmethod
    def minibatch(self, rows: Tensor) -> dict[str, Any]:
        """Return the inputs of one gradient step for row numbers, shape (batch,)."""

    @abstractmethod
    def log_epoch(self, losses: Tensor) -> None:
        """Log what an epoch did with :meth:`log_losses`; ``losses`` has shape (steps,)."""

    def begin_epoch(self, n_steps: int) -> None:
        """Prepare an epoch of ``n_steps`` gradient steps; runs with the epoch's seed."""

    def after_step(self) -> None:
        """Follow up on a gradient step."""

    def log_losses(self, losses: Tensor, *, scale: float = 1.0, **further: float) -> None:
        """Log the epoch's mean loss, its number of steps, the first non-finite step, and further figures."""
        bad = torch.nonzero(~torch.isfinite(losses))
        values = {
            "loss": losses.mean().item() * scale,
            "steps": float(len(losses)),
            NON_FINITE_STEP: float(bad[0].item()) if len(bad) else -1.0,
            **further,
        }
        self.metrics.log_dict(values, key=DEFAULT_MODULE_ID, window=1)

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Note the epoch that the algorithm counts."""
        super().before_gradient_based_update(timesteps=timesteps)
        self._epoch = int(timesteps.get(EPOCH, 0))

    def _update(self, batch: dict[str, Any]) -> tuple[Any, Any, Any]:
        rows = batch[DEFAULT_MODULE_ID][ROWS]
        steps = rows.split(self.config.train_batch_size_per_learner)
        if len(steps) > 1 and len(steps[-1]) < len(steps[0]):
            # A ragged last step has a noisier baseline; another permutation brings its rows back.
            steps = steps[:-1]
        losses, result = [], None
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(epoch_seed(self.config.seed, self._epoch, self._learner_index))
            self.begin_epoch(len(steps))
            for step in steps:
                result = super()._update({DEFAULT_MODULE_ID: self.minibatch(step)})
                losses.append(result[1][DEFAULT_MODULE_ID].detach())
                self.after_step()
        self.log_epoch(torch.stack(losses))
        assert result is not None
        return result


Mode = Literal["simulated_online", "logged"]


class OfflineConfig(AlgorithmConfig):
    """An algorithm without environments on the new API stack, learning a table's or a log's reward."""

    def __init__(self, algo_class: type[Algorithm]) -> None:
        super().__init__(algo_class=algo_class)
        self._is_online = False
        self.offline_data_class = TensorOfflineData
        # The learner checks a whole epoch's losses at once instead of every gradient of every step.
        self.torch_skip_nan_gradients = True
        self.seed = 0
        self.mode: Mode = "simulated_online"
        self.tau_usd: float | None = None

    def validate(self) -> None:
        """Check the settings that RLlib does not know.

        Raises:
            ValueError: ``tau_usd`` or ``mode`` is not set or not allowed.
        """
        super().validate()
        if self.tau_usd is None or not (np.isfinite(self.tau_usd) and self.tau_usd > 0.0):
            raise ValueError(f"tau_usd is {self.tau_usd}: must be a positive finite number of USD")
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode is {self.mode!r}; allowed: {', '.join(get_args(Mode))}")


class OfflineAlgorithm(Algorithm):
    """One ``train()`` is one epoch; evaluation is a plain function of the weights.

    When a remote learner dies, all are started anew from the end of the last whole epoch and the epoch is run
    again. Its draws come from its number, so the result is that of an undisturbed run.

    Each result carries at its top level the learner's ``reported`` figures, ``gradient_steps`` and, where the
    algorithm validates, ``validation_reward``.
    """

    reported: ClassVar[tuple[str, ...]] = ("loss",)
    learner_group: LearnerGroup

    def setup(self, config: AlgorithmConfig) -> None:
        """Build data and learners, and hand the first to the second."""
        super().setup(config)
        self._hand_out_columns()
        self._keep()

    def _hand_out_columns(self) -> None:
        columns = self.offline_data.columns
        if not self.learner_group.is_remote:
            self.learner_group.foreach_learner(_attach, columns=columns)
            return
        folder = self.offline_data.path / TRAIN
        if all(_results(self.learner_group.foreach_learner(_sees, folder=folder))):
            _results(self.learner_group.foreach_learner(_attach_folder, folder=folder))
        else:
            reference = ray.put({name: values.numpy() for name, values in columns.items()})
            _results(self.learner_group.foreach_learner(_attach_reference, reference=reference))

    def training_step(self) -> None:
        """Run one epoch over the rows, shuffled anew."""
        learners = max(1, self.config.num_learners)
        # Every learner must take the same number of steps, or gradient averaging would wait for ever.
        n_rows = self.offline_data.n_rows // learners * learners
        batch = self.offline_data.sample(n_rows, epoch=self.iteration)
        # Up to the end of this epoch, however often it is begun again: RLlib's counters are not taken back.
        seen = (self.iteration + 1) * n_rows
        counted = self.metrics.peek(NUM_ENV_STEPS_SAMPLED_LIFETIME, default=0)
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, seen - counted, reduce="lifetime_sum")
        timesteps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: seen, EPOCH: self.iteration}
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            results = self.learner_group.update(batch=batch, timesteps=timesteps)
            self.metrics.aggregate(results, key=LEARNER_RESULTS)

    def step(self) -> dict[str, Any]:
        """Run one epoch and its validation.

        Raises:
            TrainingDivergedError: a loss, a weight or the validation reward is not finite.
            LearnerLostError: learners died again and again.
        """
        return self.surviving(self._one_epoch)

    def surviving(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` returns, with the learners replaced and the work begun again where one died.

        Raises:
            LearnerLostError: that happened more than :data:`MAX_LOSSES` times.
        """
        for losses in range(MAX_LOSSES + 1):
            try:
                with naming_lost_learners(self.learner_group):
                    if losses:
                        self._restore()
                    result = work()
                    self._keep()
                    return result
            except LearnerLostError as error:
                if losses == MAX_LOSSES:
                    raise
                log.warning("a learner died (%s); going on from epoch %d", error, self.iteration)
                self.learner_group.shutdown()
                self.learner_group = self.config.build_learner_group(
                    rl_module_spec=self.offline_data.module_spec
                )
        raise AssertionError("not reached")

    def _keep(self) -> None:
        """Keep what a new set of learners would go on from; learners in this process cannot be lost alone."""
        if self.learner_group.is_remote:
            self._kept = self.learner_group.get_state()[COMPONENT_LEARNER]

    def _restore(self) -> None:
        self._hand_out_columns()
        # Not `set_state`: it drops the errors of remote learners.
        _results(self.learner_group.foreach_learner(_set_state, reference=ray.put(self._kept)))

    def _one_epoch(self) -> dict[str, Any]:
        result = super().step()
        learned = result[LEARNER_RESULTS][DEFAULT_MODULE_ID]
        steps = int(learned["steps"])
        done = self.iteration * steps
        if learned[NON_FINITE_STEP] >= 0:
            raise self._diverged(done + int(learned[NON_FINITE_STEP]) + 1, "the loss")
        if not all(np.isfinite(value).all() for value in self.module_state().values()):
            raise self._diverged(done + steps, "a weight")
        for name in self.reported:
            result[name] = float(learned[name])
        result["gradient_steps"] = done + steps
        if EVALUATION_RESULTS in result:
            result["validation_reward"] = float(result[EVALUATION_RESULTS]["validation_reward"])
            if not np.isfinite(result["validation_reward"]):
                raise self._diverged(done + steps, "a validation logit")
        return result

    def _diverged(self, step: int, what: str) -> TrainingDivergedError:
        return TrainingDivergedError(
            f"epoch {self.iteration + 1}, step {step}: {what} is not finite (lr={self.config.lr})"
        )

    def module_state(self) -> dict[str, np.ndarray]:
        """Return the current weights of the trained module as arrays on the host."""
        return self.learner_group.get_weights()[DEFAULT_MODULE_ID]

    def cleanup(self) -> None:
        """Release the learners and the empty folder that RLlib makes for every instance."""
        super().cleanup()
        folder = Path(self.logdir)
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()

    @classmethod
    def _should_create_evaluation_env_runners(cls, eval_config: AlgorithmConfig) -> bool:
        return False

    def restore_from_path(self, path: str | Path, *args: Any, **kwargs: Any) -> None:
        """Restore a checkpoint; RLlib's version wants env runners to send the weights to."""
        Checkpointable.restore_from_path(self, path, *args, **kwargs)
        self._keep()


def _attach(learner: EpochLearner, columns: dict[str, Tensor]) -> None:
    learner.attach(columns)


def _results(calls: Any) -> list[Any]:
    """Return what remote learners returned, or raise what one of them raised."""
    return [call.get() for call in calls]


def _set_state(learner: EpochLearner, reference: ray.ObjectRef) -> None:
    # A copy: the optimiser would go on writing to the arrays of the object store, which all learners share.
    learner.set_state(deepcopy(ray.get(reference)))


def _sees(learner: EpochLearner, folder: Path) -> bool:
    return folder.is_dir()


def _attach_folder(learner: EpochLearner, folder: Path) -> None:
    # Learners on one machine, or with one file system, share the mapped pages.
    learner.attach(open_columns(folder))


def _attach_reference(learner: EpochLearner, reference: ray.ObjectRef) -> None:
    # Arrays out of the object store are read-only views of shared memory.
    learner.attach({name: torch.from_numpy(values.copy()) for name, values in ray.get(reference).items()})
