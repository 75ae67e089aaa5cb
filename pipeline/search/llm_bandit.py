"""LLM Bandit in a search: stage 1 is trained once for all trials, a trial is pretraining and PPO.

What trials share lies beside the search's columns under a name made of the settings that it hangs on: the first
process that needs a part makes it while the others wait, and equal settings never train it twice.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ray.rllib.algorithms.algorithm import Algorithm

from pipeline.comparisons import JOINED_COMPARISONS, read_joined
from pipeline.config import TradewindConfig
from pipeline.config.llm_bandit import LlmBanditSettings
from pipeline.config.tune import Choices, Dimension, Interval
from pipeline.train_llm_bandit import (
    irt_settings,
    ppo_config,
    pretrained_network,
    save_weights,
    set_shape,
)
from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.llm_bandit.calibration import calibrated_identity_vectors
from policies.llm_bandit.contexts import DecisionTable, decision_table
from policies.llm_bandit.observations import Observations
from policies.llm_bandit.policy import LlmBanditPolicy
from policies.llm_bandit.ppo import SetPpo, SetPpoConfig
from policies.llm_bandit.sampling import SetSampler
from policies.llm_bandit.set_network import SetPolicyNetwork
from policies.llm_bandit.set_policy import FrozenSetPolicy
from policies.pool import ModelPool
from policies.rllib.columns import TRAIN, open_columns

DECISIONS, ROUTER = "decisions", "router"


def llm_bandit_space(config: TradewindConfig) -> dict[str, Dimension]:
    """Return the search space of stage 2; neither the cost scale nor stage 1 is in it, so all trials share both."""
    return {
        "policy.set.head": Choices(choices=("identity", "arm")),
        "policy.set.normalisation": Choices(choices=("tau", "set")),
        "policy.set.width": Choices(choices=(16, 32, 64)),
        "policy.candidates.simplex_share": Interval(low=0.0, high=1.0),
        "policy.pretrain.lr": Interval(low=2e-4, high=5e-3, log=True),
        "policy.ppo.lr": Interval(low=1e-5, high=3e-3, log=True),
        "policy.ppo.entropy_coeff": Interval(low=1e-4, high=0.1, log=True),
        "policy.ppo.mixup_alpha": Interval(low=0.0, high=1.0),
    }


def llm_bandit_config(
    config: TradewindConfig, tau_usd: float, arrays: str, embedding_dim: int, pool: ModelPool
) -> SetPpoConfig:
    """Return PPO's configuration of a trial, its network pretrained; what it needs and is not there yet is trained.

    Args:
        config: of the trial.
        tau_usd: cost scale that it learns with.
        arrays: folder of the search's columns.
        embedding_dim: length of a vector.
        pool: the models, in column order.
    """
    torch.set_num_threads(config.train.torch_threads)
    # Paths in a trial's configuration are read in other processes.
    stage_1 = _stage_1(config, tau_usd, Path(arrays).resolve(), pool)
    table = DecisionTable.open(stage_1 / DECISIONS)
    sampler = SetSampler(**_settings(config).candidates.model_dump())
    weights = _pretrained(config, stage_1, table, sampler)
    return ppo_config(config, stage_1 / DECISIONS, weights, set_shape(config, table), sampler)


def llm_bandit_policy(algorithm: Algorithm) -> LlmBanditPolicy:
    """Return the router of an algorithm's current weights."""
    assert isinstance(algorithm, SetPpo)
    stage_1 = Path(algorithm.config.env_config["directory"]).parent
    models = json.loads((stage_1 / "models.json").read_text())
    router = LlmBanditPolicy.load(stage_1 / ROUTER, tuple(models))
    return LlmBanditPolicy(router.network, router.arms, FrozenSetPolicy.of(algorithm.network()))


def _stage_1(config: TradewindConfig, tau_usd: float, root: Path, pool: ModelPool) -> Path:
    """Return the folder of identity vectors and out-of-fold predictions."""
    policy = _settings(config)
    mode = getattr(policy, config.train.mode)
    settings = [policy.identity, mode, policy.importance_clip, tau_usd, config.run.seed, config.train.mode]

    def make(folder: Path) -> None:
        data = _data(root / TRAIN, pool)
        model = calibrated_identity_vectors(
            Observations.of(data),
            pool.models,
            pool.prices_per_token_usd[:, 0],
            tau_usd,
            irt_settings(config),
            folds=policy.identity.folds,
            comparisons=read_joined(root / JOINED_COMPARISONS),
            seed=config.run.seed,
        )
        table = decision_table(data, model, importance_clip=policy.importance_clip, seed=config.run.seed)
        table.write(folder / DECISIONS)
        unused = SetPolicyNetwork.seeded(set_shape(config, table), config.run.seed)
        (folder / ROUTER).mkdir()
        LlmBanditPolicy(model.network, model.arms, FrozenSetPolicy.of(unused)).save(folder / ROUTER)
        (folder / "models.json").write_text(json.dumps(pool.models))

    return _once(root / f"identity-{_key(settings)}", make)


def _pretrained(config: TradewindConfig, stage_1: Path, table: DecisionTable, sampler: SetSampler) -> Path:
    """Return the file of a pretrained network's weights."""
    policy = _settings(config)
    settings = [policy.set, policy.candidates, policy.pretrain, config.run.seed]

    def make(folder: Path) -> None:
        save_weights(pretrained_network(config, table, sampler), folder / "weights.safetensors")

    return _once(stage_1 / f"pretrained-{_key(settings)}", make) / "weights.safetensors"


def _once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return a folder, made whole by the first process that asks for it while others wait."""
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            staging = folder.with_name(folder.name + ".tmp")
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            make(staging)
            staging.replace(folder)
    return folder


def _data(directory: Path, pool: ModelPool) -> OutcomeMatrix | LoggedFeedback:
    """Return the columns of a search as the data set that they were made of; rows of one vector are one prompt."""
    columns = {name: values.numpy() for name, values in open_columns(directory).items()}
    embeddings = columns["embeddings"]
    n = len(embeddings)
    ids = np.array([hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in embeddings])
    nothing = np.full(n, "", dtype="U1")
    tokens, scores, costs = (_double(columns[name]) for name in ("prompt_tokens", "scores", "costs_usd"))
    if "actions" not in columns:
        unknown = np.full(scores.shape, np.nan)
        return OutcomeMatrix(ids, nothing, pool, embeddings, tokens, scores, costs, unknown)
    return LoggedFeedback(
        event_ids=np.arange(n).astype(str),
        prompt_ids=ids,
        tasks=nothing,
        pool=pool,
        embeddings=embeddings,
        prompt_tokens=tokens,
        preferences=np.full((n, 2), 0.5, dtype=np.float32),
        eligible=columns["eligible"],
        actions=columns["actions"],
        propensities=_double(columns["propensities"]),
        scores=scores,
        costs_usd=costs,
        completion_tokens=np.full(n, np.nan),
    )


def _double(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return values.astype(np.float64)


def _key(settings: list[Any]) -> str:
    plain = [part.model_dump() if hasattr(part, "model_dump") else part for part in settings]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _settings(config: TradewindConfig) -> LlmBanditSettings:
    assert isinstance(config.policy, LlmBanditSettings)
    return config.policy
