"""BaRP through RLlib: epochs, the choice of the checkpoint, early stopping."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch

from pipeline.config import TradewindConfig
from pipeline.config.policy import BarpConfig
from pipeline.console import progress
from pipeline.training import TrainedPolicy, TrainingInputs
from policies.barp.algorithm import BarpAlgorithmConfig
from policies.barp.network import BarpNetwork
from policies.barp.policy import BarpPolicy
from policies.rllib.columns import TRAIN, VALIDATION, training_columns, write_columns
from policies.rllib.offline import TrainingDivergedError

log = logging.getLogger(__name__)

HISTORY_KEYS = ("gradient_steps", "loss", "train_reward", "entropy", "validation_reward")


def algorithm_config(
    config: TradewindConfig, tau_usd: float, arrays: str, embedding_dim: int, n_models: int
) -> BarpAlgorithmConfig:
    """Return RLlib's configuration for the configured policy and training.

    Args:
        config: the whole configuration; groups ``run``, ``policy`` and ``train`` are read.
        tau_usd: cost scale in USD.
        arrays: folder with the training and validation columns.
        embedding_dim: length of a vector.
        n_models: number of models.
    """
    policy, train = config.policy, config.train
    assert isinstance(policy, BarpConfig)
    learners = max(1, train.num_learners)
    settings = (
        BarpAlgorithmConfig()
        .data(arrays, embedding_dim=embedding_dim, n_models=n_models)
        .training(
            mode=train.mode,
            tau_usd=tau_usd,
            lr=policy.lr,
            weight_decay=policy.weight_decay,
            entropy_coeff=policy.entropy_coeff,
            importance_clip=policy.importance_clip,
            baseline=policy.baseline,
            train_batch_size_per_learner=max(1, policy.batch_size // learners),
            head=policy.head,
            hidden=policy.hidden,
            preference_dim=policy.preference_dim,
            dropout=policy.dropout,
            input_std=policy.input_std,
        )
        .learners(num_learners=train.num_learners, num_gpus_per_learner=train.num_gpus_per_learner)
        .debugging(seed=config.run.seed)
    )
    assert isinstance(settings, BarpAlgorithmConfig)
    return settings


def train_barp(config: TradewindConfig, data: TrainingInputs) -> TrainedPolicy:
    """Train BaRP and return the network of the epoch with the best validation reward.

    A loss or weight that stops being finite ends training at the named step with the best network so far.

    Raises:
        TrainingDivergedError: that happened before any epoch was finished.
        InputError: no row has an observed outcome.
    """
    arrays = data.scratch / "arrays"
    write_columns(arrays / TRAIN, training_columns(data.train))
    write_columns(arrays / VALIDATION, training_columns(data.validation))
    torch.set_num_threads(config.train.torch_threads)
    settings = algorithm_config(
        config, data.tau_usd, str(arrays), data.train.embeddings.shape[1], len(data.train.pool.models)
    )
    algorithm = settings.build_algo()
    try:
        network, notes = fit(config, data, algorithm)
    finally:
        algorithm.stop()
    return TrainedPolicy(BarpPolicy(data.train.pool.models, network), notes)


def fit(config: TradewindConfig, data: TrainingInputs, algorithm: Any) -> tuple[BarpNetwork, dict[str, Any]]:
    """Run epochs until ``max_epochs``, ``patience_epochs`` or divergence; return the best network and notes."""
    policy = config.policy
    assert isinstance(policy, BarpConfig)
    best: BarpNetwork | None = None
    best_reward, best_epoch, epoch = -math.inf, 0, 0
    stopped = "max_epochs"
    with progress(policy.max_epochs, "train", unit="epoch") as bar:
        for epoch in range(1, policy.max_epochs + 1):
            try:
                result = algorithm.train()
            except TrainingDivergedError as error:
                if best is None:
                    raise
                log.warning("training diverged at %s; keeping the policy of epoch %d", error, best_epoch)
                stopped, epoch = f"diverged: {error}", epoch - 1
                break
            data.record({"epoch": epoch, **{key: result[key] for key in HISTORY_KEYS}})
            reward = result["validation_reward"]
            if reward > best_reward:
                best, best_reward, best_epoch = algorithm.network(), reward, epoch
            bar.update()
            bar.set_postfix(validation_reward=f"{best_reward:.4f}", refresh=False)
            if epoch - best_epoch >= policy.patience_epochs:
                stopped = "patience"
                break
    assert best is not None
    notes = {
        "epochs": epoch,
        "best_epoch": best_epoch,
        "validation_reward": best_reward,
        "stopped": stopped,
    }
    return best, notes
