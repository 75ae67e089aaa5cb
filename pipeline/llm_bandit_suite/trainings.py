"""The policies that the checks compare: trained as Ray tasks, kept in the suite's folder, found there again."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from pipeline.cluster import user_error
from pipeline.comparisons import RunComparisons, training_comparisons
from pipeline.config import TradewindConfig
from pipeline.console import progress, say
from pipeline.llm_bandit_suite.bench import columns_of
from pipeline.train import TRAINERS
from pipeline.train_llm_bandit import identity_stage, pretrained_network
from pipeline.training import TrainingInputs, content_hash
from policies.base import Policy
from policies.datasets import OutcomeMatrix
from policies.leftovers import put_in_place, remove_leftovers, temporary_beside
from policies.llm_bandit.contexts import decision_table
from policies.llm_bandit.policy import LlmBanditPolicy
from policies.llm_bandit.sampling import SetSampler
from policies.llm_bandit.set_policy import FrozenSetPolicy
from policies.preference import cost_term
from policies.registry import policy_class

LABEL_FILE = "training.json"

FIXED_COSTS, QUERY_COSTS = "fixed", "query"


@dataclass(frozen=True)
class Training:
    """One policy to train.

    Attributes:
        name: of its folder.
        config: whose policy, seed and threads are used.
        columns: models of the run's pool that it sees at all.
        tau_usd: cost scale; None takes that of these models' costs alone.
        supervised: stage 2 ends after supervised pretraining, with costs ``fixed`` (each model's mean) or by ``query``;
            None trains as the stage `train` does.
    """

    name: str
    config: TradewindConfig
    columns: tuple[int, ...]
    tau_usd: float | None
    supervised: str | None = None

    def label(self, data_sha256: str, comparisons_sha256: str | None) -> dict[str, Any]:
        """Return what the trained policy depends on."""
        return {
            "policy": self.config.policy.model_dump(mode="json"),
            "seed": self.config.run.seed,
            "columns": list(self.columns),
            "tau_usd": self.tau_usd,
            "supervised": self.supervised,
            "comparisons_sha256": comparisons_sha256,
            "data_sha256": data_sha256,
        }


@dataclass(frozen=True)
class Trained:
    """A policy and the cost scale that it was trained with."""

    policy: Policy
    tau_usd: float


def train_all(
    trainings: Iterable[Training],
    train: OutcomeMatrix,
    validation: OutcomeMatrix,
    folder: Path,
    comparisons: RunComparisons | None = None,
) -> dict[str, Trained]:
    """Return every policy by its name; those that ``folder`` holds already are read, the others trained by Ray tasks.

    Each is written as it is ready, so that a suite that was stopped goes on where it was.

    Args:
        trainings: with distinct names.
        train: training prompts over the run's whole pool.
        validation: likewise.
        folder: of the suite's policies; Ray must be running.
        comparisons: of the run; a set of models between which there is none is trained without, and a line says so.

    Raises:
        InputError: a training cannot learn from its data.
    """
    # Prices tell a prompt's cost from its answer's, whatever the outcomes' costs are.
    seen = [content_hash(train), content_hash(validation), train.pool.to_dict()]
    digest = hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]
    wanted = {training.name: training for training in trainings}
    compared = {name: _usable(one, train, comparisons) for name, one in wanted.items()}
    labels = {
        name: one.label(digest, None if (usable := compared[name]) is None else usable.sha256)
        for name, one in wanted.items()
    }
    ready = {
        name: found
        for name, one in wanted.items()
        if (found := _read(one, train, labels[name], folder)) is not None
    }
    missing = [one for name, one in wanted.items() if name not in ready]
    if not missing:
        return ready
    for one in missing if comparisons is not None else ():
        if compared[one.name] is None and one.config.policy.name == "llm_bandit":
            say(
                f"suite: {one.name}: no comparison is between two of its {len(one.columns)} models; trained without"
            )
    parts, shared = ray.put((train, validation)), ray.put(comparisons)
    task = ray.remote(num_cpus=1)(train_one)
    # The longest first: a task that starts last should not be one of them.
    longest_first = sorted(missing, key=lambda one: -len(one.columns))
    running = {
        task.remote(one, parts, None if compared[one.name] is None else shared): one for one in longest_first
    }
    with progress(len(running), "suite", "policy") as bar:
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            one = running.pop(done)
            try:
                trained = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise user_error(error) from None
            _write(one, trained, labels[one.name], folder)
            ready[one.name] = trained
            bar.update()
    return ready


def _usable(
    training: Training, train: OutcomeMatrix, comparisons: RunComparisons | None
) -> RunComparisons | None:
    """Return the comparisons if any is on the training's prompts and models, and its policy takes them."""
    if comparisons is None or training.config.policy.name != "llm_bandit":
        return None
    if comparisons.joined(_answered(columns_of(train, training.columns))) is not None:
        return comparisons
    return None


def train_one(
    training: Training, parts: tuple[OutcomeMatrix, OutcomeMatrix], comparisons: RunComparisons | None = None
) -> Trained:
    """Train one policy, in one thread; the same training gives the same policy wherever it runs."""
    config = training.config
    torch.set_num_threads(config.train.torch_threads)
    train, validation = (_answered(columns_of(part, training.columns)) for part in parts)
    tau_usd = training.tau_usd or train.tau_usd()
    with tempfile.TemporaryDirectory(prefix="training-") as scratch:
        inputs = TrainingInputs(train, validation, tau_usd, Path(scratch), lambda line: None, comparisons)
        if training.supervised is not None:
            policy: Policy = train_supervised(config, inputs, fixed_costs=training.supervised == FIXED_COSTS)
        else:
            policy = TRAINERS[config.policy.name](config, inputs).policy
    return Trained(policy, tau_usd)


def train_supervised(config: TradewindConfig, data: TrainingInputs, *, fixed_costs: bool) -> LlmBanditPolicy:
    """Train both stages without reinforcement; with ``fixed_costs`` stage 2 sees each model's mean cost alone.

    Raises:
        InputError: see :func:`pipeline.train_llm_bandit.train_llm_bandit`.
    """
    settings = config.policy
    assert settings.name == "llm_bandit"
    assert isinstance(data.train, OutcomeMatrix)
    model = identity_stage(config, data.train, data, training_comparisons(data.comparisons, data.train))
    if fixed_costs:
        means = fixed_cost_terms(data.train, data.tau_usd)
        model = replace(model, cost_terms=np.broadcast_to(means, model.cost_terms.shape))
    table = decision_table(data.train, model, importance_clip=settings.importance_clip, seed=config.run.seed)
    network = pretrained_network(config, table, SetSampler(**settings.candidates.model_dump()))
    return LlmBanditPolicy(model.network, model.arms, FrozenSetPolicy.of(network))


def fixed_cost_terms(train: OutcomeMatrix, tau_usd: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return each model's mean cost term on the training prompts, shape (K,): a fixed price per call."""
    return np.nanmean(np.asarray(cost_term(train.costs_usd, tau_usd), dtype=np.float64), axis=0)


def _answered(data: OutcomeMatrix) -> OutcomeMatrix:
    return data.rows(data.observed.any(axis=1))


def _read(training: Training, train: OutcomeMatrix, label: Mapping[str, Any], folder: Path) -> Trained | None:
    path = folder / training.name / LABEL_FILE
    if not path.exists():
        return None
    body: Mapping[str, Any] = json.loads(path.read_text())
    if body["label"] != json.loads(json.dumps(label)):
        return None
    models = tuple(train.pool.models[j] for j in training.columns)
    return Trained(policy_class(body["kind"]).load(path.parent, models), body["trained_with_tau_usd"])


def _write(training: Training, trained: Trained, label: Mapping[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / training.name
    staging = temporary_beside(final)
    staging.mkdir()
    trained.policy.save(staging)
    body = {
        "kind": trained.policy.kind,
        "trained_with_tau_usd": trained.tau_usd,
        "label": label,
    }
    (staging / LABEL_FILE).write_text(json.dumps(body, indent=1))
    put_in_place(staging, final)
    remove_leftovers(folder, training.name)
