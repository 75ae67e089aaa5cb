"""LLM Bandit: identity vectors with out-of-fold predictions, then the set policy."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import torch

from pipeline.comparisons import load_comparisons
from pipeline.config import TradewindConfig
from pipeline.config.llm_bandit import LlmBanditSettings
from pipeline.console import progress
from pipeline.training import TrainedPolicy, TrainingInputs
from policies.barp.validation import DialValidator
from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.llm_bandit.calibration import CalibratedModel, calibrated_identity_vectors
from policies.llm_bandit.contexts import decision_table
from policies.llm_bandit.irt_training import IrtSettings
from policies.llm_bandit.observations import Observations
from policies.llm_bandit.policy import LlmBanditPolicy
from policies.llm_bandit.pretraining import PretrainSettings, pretrain
from policies.llm_bandit.sampling import SetSampler
from policies.llm_bandit.set_network import SetPolicyNetwork, SetShape
from policies.llm_bandit.set_policy import FrozenSetPolicy
from policies.rllib.columns import training_columns


def irt_settings(config: TradewindConfig) -> IrtSettings:
    """Return stage 1's settings for the configured mode."""
    policy = _settings(config)
    by_mode = policy.logged if config.train.mode == "logged" else policy.simulated_online
    given = {**policy.identity.model_dump(), **by_mode.model_dump()}
    return IrtSettings(**{f.name: given[f.name] for f in fields(IrtSettings)})


def train_llm_bandit(config: TradewindConfig, data: TrainingInputs) -> TrainedPolicy:
    """Train both stages; validation prompts are only measured.

    A full table is learned from as a whole (``train.mode=simulated_online``), as published; in logged mode stage 1
    sees the logged entries and stage 2 is paid doubly robust estimates of the others.

    Raises:
        InputError: no row has an observed outcome, or there are fewer prompts than folds.
        FloatingPointError: a loss stopped being finite.
    """
    policy, seed = _settings(config), config.run.seed
    torch.set_num_threads(config.train.torch_threads)
    train = data.train.scored() if isinstance(data.train, LoggedFeedback) else data.train
    model = identity_stage(config, train, data)
    table = decision_table(train, model, importance_clip=policy.importance_clip, seed=seed)
    sampler = SetSampler(**policy.candidates.model_dump())
    shape = SetShape(table.inputs.shape[1], table.identity.shape[1], **policy.set.model_dump())
    network = SetPolicyNetwork.seeded(shape, seed)
    settings = PretrainSettings(**policy.pretrain.model_dump())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pretrain(network, table, sampler, settings, seed=seed, record=_recorder(data, "pretrain"))
    trained = LlmBanditPolicy(model.network, model.arms, FrozenSetPolicy.of(network))
    notes = {
        "validation_reward": validation_reward(trained, data),
        "log_loss": model.log_loss[1],
        "platt_slope": model.network.platt[0],
        "identity_std": float(model.arms.identity_std.mean()),
    }
    return TrainedPolicy(trained, notes)


def identity_stage(
    config: TradewindConfig, train: OutcomeMatrix | LoggedFeedback, data: TrainingInputs
) -> CalibratedModel:
    """Return identity vectors of the pool's models, calibrated, with out-of-fold predictions."""
    policy = _settings(config)
    comparisons = None
    if policy.identity.comparisons is not None:
        comparisons = load_comparisons(policy.identity.comparisons, train)
    with progress(policy.identity.folds + 1, "identity vectors", unit="fit") as bar:
        return calibrated_identity_vectors(
            Observations.of(train),
            train.pool.models,
            train.pool.prices_per_token_usd[:, 0],
            data.tau_usd,
            irt_settings(config),
            folds=policy.identity.folds,
            comparisons=comparisons,
            seed=config.run.seed,
            record=_recorder(data, "identity"),
            progress=lambda: bar.update(),
        )


def validation_reward(policy: LlmBanditPolicy, data: TrainingInputs) -> float:
    """Return the mean reward over the dial of greedy decisions on the validation rows."""
    validation = data.validation
    if isinstance(validation, LoggedFeedback):
        validation = validation.scored()
    elif len(validation.complete()):
        validation = validation.complete()
    else:
        validation = validation.rows(validation.observed.any(axis=1))
    columns, train = (
        {
            name: torch.from_numpy(np.require(c, requirements=["C", "W"]))
            for name, c in training_columns(part).items()
        }
        for part in (validation, data.train)
    )
    validator = DialValidator.of(columns, train, data.tau_usd)
    return validator.mean_reward_of(policy, validation.prompt_tokens)


def _settings(config: TradewindConfig) -> LlmBanditSettings:
    assert isinstance(config.policy, LlmBanditSettings)
    return config.policy


def _recorder(data: TrainingInputs, stage: str) -> Any:
    return lambda line: data.record({"stage": stage, **line})
