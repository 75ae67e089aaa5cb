"""A baseline as the run's policy: fitted in seconds, evaluated, registered and served like any other."""

from __future__ import annotations

import torch

from pipeline.baselines import fit_baseline
from pipeline.config import TradewindConfig
from pipeline.training import TrainedPolicy, TrainingInputs
from policies.barp.validation import DialValidator


def train_baseline(config: TradewindConfig, data: TrainingInputs) -> TrainedPolicy:
    """Fit the configured baseline to the training rows; validation prompts are only measured.

    Raises:
        InputError: it needs a full table and the run has a log, or nothing was observed.
    """
    torch.set_num_threads(config.train.torch_threads)
    settings = config.policy.model_dump(exclude={"name"})
    policy = fit_baseline(config.policy.name, data.train, data.tau_usd, settings, seed=config.run.seed)
    reward = DialValidator.of_rows(data.validation, data.train, data.tau_usd).mean_reward_of(policy)
    data.record({"epoch": 1, "validation_reward": reward})
    return TrainedPolicy(policy, {"validation_reward": reward})
