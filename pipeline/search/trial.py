"""One trial: an RLlib algorithm under one set of values, an epoch and a judgement at a time."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory

from pipeline.config import TradewindConfig
from pipeline.cost_scale import scale_costs_usd, training_tau_usd
from pipeline.search.learners import searchable
from pipeline.search.objective import Jury
from pipeline.search.space import with_values
from pipeline.search.spec import SearchFolder, SearchSpec, search_space
from policies.base import Policy
from policies.rllib.columns import TRAIN, open_columns
from policies.rllib.offline import OfflineConfig

SEARCH = "search"
"""Constant entry of every point: the search's folder."""

PROGRESS = "progress.json"
"""File of a checkpoint that tells how far the candidate was, and the sizes of the other files."""

LEARNER_METRICS = ("loss", "train_reward", "entropy", "revealed")


class Candidate:
    """A learner in training, with the best judgement so far and the values it was trained with.

    Args:
        spec: what all candidates have in common.
        values: configuration keys and their values.
        arrays: folder of the columns.
        judged: whether epochs are judged on validation prompts.
    """

    def __init__(
        self, spec: SearchSpec, values: dict[str, Any], arrays: Path, *, judged: bool = True
    ) -> None:
        config = with_values(spec.configuration(), values)
        torch.set_num_threads(config.train.torch_threads)
        self._learner = searchable(config.policy.name)
        self._models = spec.pool().models
        self.algorithm = algorithm_settings(spec, config, arrays).build_algo()
        self._jury = Jury.of(arrays, spec.reference_tau_usd) if judged else None
        self.epoch = 0
        self.best: dict[str, Any] = {"reward": -math.inf}
        self.schedule: list[dict[str, Any]] = [{"from_epoch": 0, "values": values}]

    def advance(self) -> dict[str, Any]:
        """Train one epoch and return its metrics; those of the epoch that counts under their plain names.

        Raises:
            TrainingDivergedError: a loss, a weight or a validation logit is not finite.
        """
        learned = self.algorithm.train()
        self.epoch += 1
        metrics = {name: float(learned[name]) for name in LEARNER_METRICS if name in learned}
        if self._jury is not None:
            judgement = self._learner.judge(self._jury, self.algorithm, self._models)
            if not self._learner.keeps_best or judgement.reward > self.best["reward"]:
                self.best = {**asdict(judgement), "best_epoch": self.epoch}
            metrics |= {"epoch_reward": judgement.reward, **self.best}
        return {"epoch": self.epoch, **metrics}

    def policy(self) -> Policy:
        """Return the policy of the current weights."""
        return self._learner.policy(self.algorithm, self._models)

    def save(self, directory: Path) -> None:
        """Write weights, optimiser state and progress into an existing folder."""
        self.algorithm.save_to_path(str(directory / "algorithm"))
        sizes = {str(path.relative_to(directory)): path.stat().st_size for path in _files(directory)}
        state = {"epoch": self.epoch, "best": self.best, "schedule": self.schedule, "sizes": sizes}
        (directory / PROGRESS).write_text(json.dumps(state))

    def load(self, directory: Path) -> None:
        """Go on from what another candidate wrote, under this one's values.

        An optimiser's checkpoint holds its settings too; when the values differ, this candidate's are kept.
        """
        state = json.loads((directory / PROGRESS).read_text())
        values = self.schedule[-1]["values"]
        settings = self.algorithm.learner_group.foreach_learner(_optimizer_settings)
        self.algorithm.restore_from_path(str(directory / "algorithm"))
        self.epoch, self.best, self.schedule = state["epoch"], state["best"], state["schedule"]
        if self.schedule[-1]["values"] != values:
            own = next(iter(settings)).get()
            self.algorithm.learner_group.foreach_learner(_set_optimizer_settings, settings=own)
            self.schedule = [*self.schedule, {"from_epoch": self.epoch, "values": values}]

    def stop(self) -> None:
        """Release learners."""
        self.algorithm.stop()


def whole_checkpoint(directory: Path) -> Path:
    """Return a trial's checkpoint, or its newest whole one where a kill left that one incomplete.

    Tune deletes a checkpoint as soon as the next one is written, and notes that down in its snapshot afterwards:
    of a driver killed in between, the snapshot names a checkpoint that is gone, or half gone.

    Raises:
        FileNotFoundError: none of the trial's checkpoints is whole.
    """
    if _is_whole(directory):
        return directory
    others = [path for path in sorted(directory.parent.glob("checkpoint_*"), reverse=True) if _is_whole(path)]
    if not others:
        raise FileNotFoundError(f"{directory}: incomplete, and so is every other checkpoint of the trial")
    return others[0]


def _is_whole(directory: Path) -> bool:
    try:
        sizes: dict[str, int] = json.loads((directory / PROGRESS).read_text())["sizes"]
        return all((directory / name).stat().st_size == size for name, size in sizes.items())
    except (FileNotFoundError, json.JSONDecodeError):
        return False


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def algorithm_settings(spec: SearchSpec, config: TradewindConfig, arrays: Path) -> OfflineConfig:
    """Return RLlib's configuration of a candidate: it judges itself, so RLlib evaluates nothing."""
    columns = open_columns(arrays / TRAIN)
    costs_usd = scale_costs_usd(columns["scores"].numpy(), columns["costs_usd"].numpy())
    tau_usd = training_tau_usd(config, costs_usd, spec.reference_tau_usd)
    settings = searchable(config.policy.name).algorithm_config(
        config, tau_usd, str(arrays), spec.embedding_dim, spec.pool()
    )
    cpus = config.tune.cpus_per_trial
    # A trial's bundle is the larger of the two, so a fraction must be set for both.
    settings.learners(num_cpus_per_learner=cpus).resources(num_cpus_for_main_process=cpus)
    settings.evaluation(evaluation_interval=None)
    return settings


class SearchTrial(tune.Trainable):
    """Ray Tune's view of a :class:`Candidate`; a finished trial's process serves the next one."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """Return the bundles that RLlib asks for: main process and learners."""
        folder = SearchFolder(Path(config[SEARCH]))
        spec = SearchSpec.read(folder.spec)
        settings = algorithm_settings(spec, spec.configuration(), folder.arrays)
        return settings.algo_class.default_resource_request(settings)

    def setup(self, config: dict[str, Any]) -> None:
        """Start the trial's candidate."""
        started = time.perf_counter()
        folder = SearchFolder(Path(config[SEARCH]))
        spec = SearchSpec.read(folder.spec)
        base = spec.configuration()
        values = search_space(base).values_of(config)
        learner = searchable(base.policy.name)
        self._max_epochs = base.tune.max_epochs or learner.epochs(with_values(base, values))
        self._keeps_best = learner.keeps_best
        self._patience = learner.patience_epochs(base)
        self._candidate = Candidate(spec, values, folder.arrays)
        self._setup_s = time.perf_counter() - started

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Replace the candidate by one with new values, in the same process."""
        self._candidate.stop()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch."""
        result = self._candidate.advance()
        since_best = result["epoch"] - result["best_epoch"]
        at_end = result["epoch"] >= self._max_epochs
        return {
            **result,
            "usable": self._keeps_best or at_end,
            "setup_s": self._setup_s,
            "schedule": self._candidate.schedule,
            "done": at_end or since_best >= self._patience,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the candidate."""
        self._candidate.save(Path(checkpoint_dir))

    def restore(self, checkpoint_path: Any) -> None:
        """Go on from a checkpoint, or from the trial's newest whole one where a kill left that one incomplete."""
        checkpoint = getattr(checkpoint_path, "checkpoint", checkpoint_path)
        named = Path(getattr(checkpoint, "path", checkpoint))
        whole = whole_checkpoint(named)
        super().restore(checkpoint_path if whole == named else str(whole))
        self._iteration = self._candidate.epoch

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Go on from a written candidate."""
        self._candidate.load(Path(checkpoint_dir))

    def cleanup(self) -> None:
        """Release the candidate."""
        self._candidate.stop()


def _optimizer_settings(learner: Any) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        for name, optimizer in learner._named_optimizers.items()
    }


def _set_optimizer_settings(learner: Any, settings: dict[str, list[dict[str, Any]]]) -> None:
    for name, groups in settings.items():
        for group, own in zip(learner._named_optimizers[name].param_groups, groups, strict=True):
            group.update(own)
