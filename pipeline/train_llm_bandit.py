"""LLM Bandit: identity vectors with out-of-fold predictions, then the set policy: supervised, then PPO."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pipeline.comparisons import training_comparisons
from pipeline.config import TradewindConfig
from pipeline.config.llm_bandit import LlmBanditSettings
from pipeline.console import progress
from pipeline.training import TrainedPolicy, TrainingInputs
from policies.barp.validation import DialValidator
from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.llm_bandit.calibration import CalibratedModel, calibrated_identity_vectors
from policies.llm_bandit.contexts import DecisionTable, decision_table
from policies.llm_bandit.irt_training import IrtSettings
from policies.llm_bandit.observations import Comparisons, Observations
from policies.llm_bandit.policy import LlmBanditPolicy
from policies.llm_bandit.ppo import SetPpoConfig
from policies.llm_bandit.pretraining import PretrainSettings, pretrain
from policies.llm_bandit.sampling import SetSampler
from policies.llm_bandit.set_network import SetPolicyNetwork, SetShape
from policies.llm_bandit.set_policy import FrozenSetPolicy
from policies.rllib.recovery import begun_again, naming_lost_learners

PPO_KEYS = ("reward", "policy_loss", "value_loss", "entropy")


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

    When a remote learner dies, PPO begins again from the pretrained network and comes to the same result.

    Raises:
        InputError: no row has an observed outcome, there are fewer prompts than folds, or comparisons were given
            and none is on a training prompt.
        FloatingPointError: a loss stopped being finite.
    """
    policy, seed = _settings(config), config.run.seed
    torch.set_num_threads(config.train.torch_threads)
    train = data.train.scored() if isinstance(data.train, LoggedFeedback) else data.train
    compared = training_comparisons(data.comparisons, train)
    model = identity_stage(config, train, data, compared)
    table = decision_table(train, model, importance_clip=policy.importance_clip, seed=seed)
    sampler = SetSampler(**policy.candidates.model_dump())
    network = pretrained_network(config, table, sampler, record=_recorder(data, "pretrain"))
    judge = _Judge.of(model, data, sampler)
    told: list[dict[str, Any]] = []

    def record_once(line: dict[str, Any]) -> None:
        if line not in told:
            told.append(line)
            data.record(line)

    def stage2_from_its_start() -> tuple[SetPolicyNetwork, dict[str, Any]]:
        scratch = Path(tempfile.mkdtemp(prefix="ppo-", dir=data.scratch))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            own = replace(data, record=record_once, scratch=scratch)
            return reinforce(config, own, table, sampler, network, judge)

    best, stage2 = begun_again(stage2_from_its_start)
    notes = {
        **stage2,
        "log_loss": model.log_loss[1],
        "platt_slope": model.network.platt[0],
        "identity_std": float(model.arms.identity_std.mean()),
    }
    if compared is not None and data.comparisons is not None:
        notes |= data.comparisons.notes(compared)
    return TrainedPolicy(judge.policy(best), notes)


def set_shape(config: TradewindConfig, table: DecisionTable) -> SetShape:
    """Return the sizes of the configured set policy over a decision table."""
    return SetShape(table.inputs.shape[1], table.identity.shape[1], **_settings(config).set.model_dump())


def pretrained_network(
    config: TradewindConfig,
    table: DecisionTable,
    sampler: SetSampler,
    record: Callable[[dict[str, float]], None] = lambda line: None,
) -> SetPolicyNetwork:
    """Return the configured set policy after supervised pretraining, which the run's seed determines."""
    seed = config.run.seed
    network = SetPolicyNetwork.seeded(set_shape(config, table), seed)
    settings = PretrainSettings(**_settings(config).pretrain.model_dump())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pretrain(network, table, sampler, settings, seed=seed, record=record)
    return network


def reinforce(
    config: TradewindConfig,
    data: TrainingInputs,
    table: DecisionTable,
    sampler: SetSampler,
    network: SetPolicyNetwork,
    judge: _Judge,
) -> tuple[SetPolicyNetwork, dict[str, Any]]:
    """Improve a pretrained network by PPO; return the best by validation reward, which may be the pretrained one."""
    settings = _settings(config).ppo
    best, best_reward, best_iteration = network, judge.reward(network), 0
    pretrained_reward = best_reward
    if settings.iterations:
        data.record({"stage": "ppo", "iteration": 0, "validation_reward": pretrained_reward})
        decisions, weights = data.scratch / "decisions", data.scratch / "pretrained.safetensors"
        table.write(decisions)
        save_weights(network, weights)
        algorithm = ppo_config(config, decisions, weights, network.shape, sampler).build_algo()
        try:
            with progress(settings.iterations, "ppo", unit="iteration") as bar:
                for iteration in range(1, settings.iterations + 1):
                    with naming_lost_learners(algorithm.learner_group):
                        result, current = algorithm.train(), algorithm.network()
                    line = {"stage": "ppo", "iteration": iteration, **{key: result[key] for key in PPO_KEYS}}
                    if iteration % settings.validate_every == 0 or iteration == settings.iterations:
                        line["validation_reward"] = reward = judge.reward(current)
                        if reward > best_reward:
                            best, best_reward, best_iteration = current, reward, iteration
                    data.record(line)
                    bar.update()
        finally:
            algorithm.stop()
    return best, {
        "validation_reward": best_reward,
        "pretrained_reward": pretrained_reward,
        "ppo_iterations": settings.iterations,
        "best_iteration": best_iteration,
    }


def save_weights(network: SetPolicyNetwork, path: Path) -> None:
    """Write what PPO starts from."""
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)


def ppo_config(
    config: TradewindConfig, decisions: Path, weights: Path, shape: SetShape, sampler: SetSampler
) -> SetPpoConfig:
    """Return RLlib's configuration of PPO over the decision table in a folder, from first weights in a file."""
    settings, train = _settings(config).ppo, config.train
    ppo = (
        SetPpoConfig()
        .debugging(seed=config.run.seed)
        .router(
            decisions,
            shape,
            sampler,
            sets_per_iteration=settings.sets_per_iteration,
            preferences_per_set=settings.preferences_per_set,
            weights=weights,
        )
        .training(
            lr=settings.lr,
            minibatch_size=min(settings.minibatch_sets, settings.sets_per_iteration),
            num_epochs=settings.epochs,
            clip_param=settings.clip,
            entropy_coeff=settings.entropy_coeff,
            vf_loss_coeff=settings.value_coeff,
            mixup_alpha=settings.mixup_alpha,
        )
        .learners(num_learners=train.num_learners, num_gpus_per_learner=train.num_gpus_per_learner)
    )
    assert isinstance(ppo, SetPpoConfig)
    return ppo


@dataclass(frozen=True)
class _Judge:
    """Measures a set policy on the validation rows, at the dial's settings that training may draw.

    Preferences held out of training choose no checkpoint either; where none of the dial's is drawn, all are used.
    """

    model: CalibratedModel
    validator: DialValidator

    @classmethod
    def of(cls, model: CalibratedModel, data: TrainingInputs, sampler: SetSampler) -> _Judge:
        validator = DialValidator.of_rows(data.validation, data.train, data.tau_usd)
        drawn = sampler.draws(validator.preferences.numpy())
        if drawn.any():
            validator = replace(validator, preferences=validator.preferences[torch.from_numpy(drawn)])
        return cls(model, validator)

    def policy(self, network: SetPolicyNetwork) -> LlmBanditPolicy:
        """Return the router of a network."""
        return LlmBanditPolicy(self.model.network, self.model.arms, FrozenSetPolicy.of(network))

    def reward(self, network: SetPolicyNetwork) -> float:
        """Return the mean reward over the dial of greedy decisions."""
        return self.validator.mean_reward_of(self.policy(network))


def identity_stage(
    config: TradewindConfig,
    train: OutcomeMatrix | LoggedFeedback,
    data: TrainingInputs,
    compared: Comparisons | None,
) -> CalibratedModel:
    """Return identity vectors of the pool's models, calibrated, with out-of-fold predictions."""
    policy = _settings(config)
    with progress(policy.identity.folds + 1, "identity vectors", unit="fit") as bar:
        return calibrated_identity_vectors(
            Observations.of(train),
            train.pool.models,
            train.pool.prices_per_token_usd[:, 0],
            data.tau_usd,
            irt_settings(config),
            folds=policy.identity.folds,
            comparisons=compared,
            validation=Observations.of(data.validation),
            seed=config.run.seed,
            record=_recorder(data, "identity"),
            progress=lambda: bar.update(),
        )


def _settings(config: TradewindConfig) -> LlmBanditSettings:
    assert isinstance(config.policy, LlmBanditSettings)
    return config.policy


def _recorder(data: TrainingInputs, stage: str) -> Any:
    return lambda line: data.record({"stage": stage, **line})
