"""The outcome model through RLlib: a fixed number of epochs under one cycle of the learning rate."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from pipeline.config import TradewindConfig
from pipeline.config.policy import OutcomeModelSettings
from pipeline.console import progress
from pipeline.training import TrainedPolicy, TrainingInputs
from policies.barp.validation import DialValidator
from policies.outcome_model.algorithm import OutcomeModelAlgorithm, OutcomeModelConfig
from policies.outcome_model.learner import dense_outcomes
from policies.outcome_model.policy import OutcomeModelPolicy
from policies.rllib.columns import TRAIN, VALIDATION, open_columns, training_columns, write_columns
from policies.rllib.offline import TrainingDivergedError

log = logging.getLogger(__name__)

MIN_BATCH_ROWS = 16
"""Smaller batches would hardly hold two revealed entries of a model."""

HISTORY_KEYS = ("gradient_steps", "loss", "revealed")


def algorithm_config(
    config: TradewindConfig, tau_usd: float, arrays: str, embedding_dim: int, input_prices: tuple[float, ...]
) -> OutcomeModelConfig:
    """Return RLlib's configuration for the configured policy and training.

    Args:
        config: the whole configuration; groups ``run``, ``policy`` and ``train`` are read.
        tau_usd: cost scale in USD.
        arrays: folder with the training columns.
        embedding_dim: length of a vector.
        input_prices: USD per prompt token of each model.
    """
    policy, train = config.policy, config.train
    assert isinstance(policy, OutcomeModelSettings)
    by_mode = policy.logged if train.mode == "logged" else policy.simulated_online
    n_rows = len(open_columns(Path(arrays) / TRAIN)["embeddings"])
    batch_rows = max(MIN_BATCH_ROWS, min(policy.batch_size, n_rows // by_mode.min_steps_per_epoch))
    online: dict[str, Any] = {}
    if train.mode == "simulated_online":
        visits = policy.visits
        online = {
            "epochs_per_round": visits.epochs_per_round,
            "visits_per_round": visits.visits_per_round,
            "explore": visits.explore,
        }
    settings = (
        OutcomeModelConfig()
        .data(arrays, embedding_dim=embedding_dim, input_price_per_token_usd=input_prices)
        .training(
            mode=train.mode,
            tau_usd=tau_usd,
            lr=policy.lr,
            train_batch_size_per_learner=max(1, batch_rows // max(1, train.num_learners)),
            members=policy.members,
            components=policy.components,
            token_scale=policy.token_scale,
            input_dropout=policy.input_dropout,
            length_weight=policy.length_weight,
            topics=policy.topics,
            hidden=by_mode.hidden,
            dropout=by_mode.dropout,
            weight_decay=by_mode.weight_decay,
            interaction_decay=by_mode.interaction_decay,
            topic_share=by_mode.topic_share,
            epochs=by_mode.epochs,
            **online,
        )
        .learners(num_learners=train.num_learners, num_gpus_per_learner=train.num_gpus_per_learner)
        .debugging(seed=config.run.seed)
    )
    assert isinstance(settings, OutcomeModelConfig)
    return settings


def train_outcome_model(config: TradewindConfig, data: TrainingInputs) -> TrainedPolicy:
    """Train the outcome model and return the router of the last epoch.

    The learning rate's cycle and the decay do what early stopping would; validation prompts only fit the share
    of topics in the blend.
    A loss or weight that stops being finite ends training at the named step with the last good epoch.

    Raises:
        TrainingDivergedError: that happened before any epoch was finished.
        InputError: no row has an observed outcome.
    """
    pool = data.train.pool
    arrays = data.scratch / "arrays"
    write_columns(arrays / TRAIN, training_columns(data.train))
    write_columns(arrays / VALIDATION, training_columns(data.validation))
    torch.set_num_threads(config.train.torch_threads)
    prices = tuple(float(p) for p in pool.prices_per_token_usd[:, 0])
    settings = algorithm_config(config, data.tau_usd, str(arrays), data.train.embeddings.shape[1], prices)
    algorithm = settings.build_algo()
    try:
        policy, notes = fit(data, algorithm, settings.epochs)
    finally:
        algorithm.stop()
    validation = open_columns(arrays / VALIDATION)
    policy = _blended(policy, validation)
    validator = DialValidator.of(validation, open_columns(arrays / TRAIN), data.tau_usd)
    return TrainedPolicy(policy, {**notes, "validation_reward": validator.mean_reward_of(policy)})


def fit(
    data: TrainingInputs, algorithm: OutcomeModelAlgorithm, epochs: int
) -> tuple[OutcomeModelPolicy, dict[str, Any]]:
    """Train for a number of epochs and return the router, of the last good epoch where training diverged.

    Raises:
        TrainingDivergedError: the first epoch diverged.
    """
    good: dict[str, npt.NDArray] | None = None
    stopped, epoch = "epochs", 0
    with progress(epochs, "train", unit="epoch") as bar:
        for epoch in range(1, epochs + 1):
            try:
                result = algorithm.train()
            except TrainingDivergedError as error:
                if good is None:
                    raise
                log.warning("training diverged at %s; keeping the policy of epoch %d", error, epoch - 1)
                algorithm.set_weights(good)
                stopped, epoch = f"diverged: {error}", epoch - 1
                break
            good = algorithm.weights()
            data.record({"epoch": epoch, **{key: result[key] for key in HISTORY_KEYS}})
            bar.update()
            bar.set_postfix(loss=f"{result['loss']:.4f}", refresh=False)
    policy = algorithm.policy(data.train.pool.models)
    return policy, {"epochs": epoch, "stopped": stopped, "revealed": result["revealed"]}


def _blended(policy: OutcomeModelPolicy, columns: dict[str, torch.Tensor]) -> OutcomeModelPolicy:
    host = dense_outcomes({name: values.numpy() for name, values in columns.items()}, len(policy.models))
    return policy.with_fitted_share(host["embeddings"], host["prompt_tokens"], host["scores"])
