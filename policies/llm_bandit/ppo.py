"""PPO of the set policy on RLlib (LLM Bandit, arXiv 2502.02743, stage 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.algorithms.ppo.ppo import PPO, PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.policy.sample_batch import MultiAgentBatch, concat_samples
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)
from ray.tune.registry import register_env
from safetensors.torch import load_file
from torch import Tensor

from policies.llm_bandit.ppo_runner import ADVANTAGES, VALUE_TARGETS, VALUES, RouterEnvRunner
from policies.llm_bandit.router_env import ARMS, INPUTS, MASK, PREFERENCES, RouterVectorEnv
from policies.llm_bandit.sampling import SetSampler
from policies.llm_bandit.set_network import SetPolicyNetwork, SetShape

ENV_NAME = "tradewind-router"


class SetPolicyModule(TorchRLModule, ValueFunctionAPI):
    """Wraps one :class:`SetPolicyNetwork`; ``model_config`` holds its shape, seed and first weights' file."""

    def setup(self) -> None:
        """Build the network, from the pretrained weights where there are any."""
        self.network = SetPolicyNetwork.seeded(
            SetShape(**self.model_config["shape"]), self.model_config["seed"]
        )
        if self.model_config["weights"] is not None:
            self.network.load_state_dict(load_file(self.model_config["weights"]))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        observation = batch[Columns.OBS]
        logits, values = self.network(
            observation[INPUTS], observation[ARMS], observation[MASK].bool(), observation[PREFERENCES]
        )
        return {Columns.ACTION_DIST_INPUTS: logits, VALUES: values}

    def compute_values(self, batch: dict[str, Any], embeddings: Any | None = None) -> Tensor:
        """Return expected score and cost, shape (n, 2)."""
        return self._forward(batch)[VALUES]


class SetPpoLearner(PPOTorchLearner):
    """The clipped surrogate over M decisions a row, and the squared error of score and cost values."""

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """Return ``mean(-min(A rho, A clip(rho)) - beta H) + c_v ||V - target||^2``."""
        log_pi = torch.log_softmax(fwd_out[Columns.ACTION_DIST_INPUTS], dim=2)
        log_probability = log_pi.gather(2, batch[Columns.ACTIONS][..., None])[..., 0]
        ratio = (log_probability - batch[Columns.ACTION_LOGP]).exp()
        clipped = ratio.clamp(1.0 - config.clip_param, 1.0 + config.clip_param)
        advantage = batch[ADVANTAGES]
        surrogate = torch.min(advantage * ratio, advantage * clipped).mean()
        entropy = -(log_pi.exp() * log_pi).sum(dim=2).mean()
        value_loss = ((fwd_out[VALUES] - batch[VALUE_TARGETS]) ** 2).mean()
        self.metrics.log_dict(
            {"policy_loss": -surrogate, "value_loss": value_loss, "entropy": entropy},
            key=module_id,
            window=1,
        )
        beta = self.entropy_coeff_schedulers_per_module[module_id].get_current_value()
        return -surrogate + config.vf_loss_coeff * value_loss - beta * entropy


class SetPpoConfig(PPOConfig):
    """Configuration of :class:`SetPpo`.

    One iteration draws ``sets_per_iteration`` prompts with candidate sets, decides each under
    ``preferences_per_set`` preferences, and takes ``num_epochs`` passes in minibatches of ``minibatch_size`` sets.
    """

    def __init__(self, algo_class: type[PPO] | None = None) -> None:
        super().__init__(algo_class=algo_class or SetPpo)
        self.env_runner_cls = RouterEnvRunner
        self.num_env_runners = 0
        self.gym_env_vectorize_mode = "vector_entry_point"
        self.num_envs_per_env_runner = 512
        self.mixup_alpha = 0.2
        self.preferences_per_set = 8
        self.shape: dict[str, Any] = {}
        self.weights: str | None = None
        self.lr = 1e-3
        self.num_epochs = 2
        self.minibatch_size = 128
        self.clip_param = 0.2
        self.vf_loss_coeff = 1.0
        self.entropy_coeff = 0.0
        self.use_kl_loss = False
        self.seed = 0

    def training(self, *, mixup_alpha: float = NotProvided, **kwargs: Any) -> Self:
        """Set how PPO learns; further keywords are RLlib's.

        Args:
            mixup_alpha: of the Beta distribution of on-manifold mixup; 0 turns it off.
        """
        super().training(**kwargs)
        if mixup_alpha is not NotProvided:
            self.mixup_alpha = mixup_alpha
        return self

    def router(
        self,
        directory: str | Path,
        shape: SetShape,
        sampler: SetSampler,
        *,
        sets_per_iteration: int,
        preferences_per_set: int,
        weights: str | Path | None = None,
    ) -> Self:
        """Name the folder of a decision table, the network, the draws, and a file of first weights."""
        self.shape, self.weights = shape.to_dict(), None if weights is None else str(weights)
        self.preferences_per_set = preferences_per_set
        self.num_envs_per_env_runner = sets_per_iteration
        self.train_batch_size_per_learner = sets_per_iteration * preferences_per_set
        register_env(ENV_NAME, make_env)
        self.environment(
            env=ENV_NAME,
            env_config={
                "directory": str(directory),
                "sampler": asdict(sampler),
                "preferences_per_set": preferences_per_set,
                "normalisation": shape.normalisation,
                "seed": self.seed,
            },
        )
        return self

    def get_default_learner_class(self) -> type[SetPpoLearner]:
        """Return the learner."""
        return SetPpoLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return the module's recipe."""
        settings = {"shape": self.shape, "seed": self.seed, "weights": self.weights}
        return RLModuleSpec(module_class=SetPolicyModule, model_config=settings)


def make_env(context: Any) -> RouterVectorEnv:
    """Return an environment runner's environment; each runner draws its own prompts."""
    settings = dict(context)
    # RLlib numbers remote runners from 1.
    settings["seed"] += 10_007 * getattr(context, "worker_index", 0)
    return RouterVectorEnv.open(settings.pop("directory"), settings.pop("sampler"), **settings)


class SetPpo(PPO):
    """PPO whose runners hand over finished batches; each result carries ``reward``, ``entropy`` and losses."""

    @classmethod
    def get_default_config(cls) -> AlgorithmConfig:
        """Return the default configuration."""
        return SetPpoConfig()

    def training_step(self) -> None:
        """Draw and decide one batch, learn from it, and send the weights to the runners."""
        runners = max(1, self.config.num_env_runners)
        wanted = -(-self.config.total_train_batch_size // runners)
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            sampled = self.env_runner_group.foreach_env_runner(
                _Sample(wanted), local_env_runner=self.config.num_env_runners == 0
            )
            self.metrics.aggregate([metrics for _, metrics in sampled], key=ENV_RUNNER_RESULTS)
        batch = _standardised([batch for batch, _ in sampled])
        steps = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME))
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            results = self.learner_group.update(
                batch=batch,
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: steps},
                num_epochs=self.config.num_epochs,
                minibatch_size=self.config.minibatch_size,
                shuffle_batch_per_epoch=True,
            )
            self.metrics.aggregate(results, key=LEARNER_RESULTS)
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self.env_runner_group.sync_weights(
                from_worker_or_learner_group=self.learner_group,
                policies=[DEFAULT_MODULE_ID],
                inference_only=True,
            )

    def step(self) -> dict[str, Any]:
        """Run one iteration.

        Raises:
            FloatingPointError: a weight or a loss is not finite.
        """
        result = super().step()
        learned = result[LEARNER_RESULTS][DEFAULT_MODULE_ID]
        for name in ("policy_loss", "value_loss", "entropy"):
            result[name] = float(learned[name])
        result["reward"] = float(result[ENV_RUNNER_RESULTS]["episode_return_mean"])
        if not np.isfinite([result[n] for n in ("policy_loss", "value_loss", "entropy")]).all():
            raise FloatingPointError(f"PPO iteration {self.iteration + 1}: a loss is not finite")
        return result

    def network(self) -> SetPolicyNetwork:
        """Return a copy of the current network on the host."""
        prefix = "network."
        weights = self.learner_group.get_weights()[DEFAULT_MODULE_ID]
        network = SetPolicyNetwork.seeded(SetShape(**self.config.shape), 0)
        network.load_state_dict(
            {name.removeprefix(prefix): torch.from_numpy(np.array(value)) for name, value in weights.items()}
        )
        return network.eval()


class _Sample:
    """What every runner is asked for: a picklable call."""

    def __init__(self, num_timesteps: int) -> None:
        self.num_timesteps = num_timesteps

    def __call__(self, runner: RouterEnvRunner) -> tuple[MultiAgentBatch, Any]:
        return runner.sample(num_timesteps=self.num_timesteps), runner.get_metrics()


def _standardised(batches: Sequence[MultiAgentBatch]) -> MultiAgentBatch:
    """Return one batch whose advantages have mean 0 and deviation 1."""
    batch = concat_samples([b[DEFAULT_MODULE_ID] for b in batches])
    advantage = batch[ADVANTAGES]
    batch[ADVANTAGES] = ((advantage - advantage.mean()) / (advantage.std() + 1e-6)).astype(np.float32)
    return MultiAgentBatch({DEFAULT_MODULE_ID: batch}, env_steps=sum(b.env_steps() for b in batches))
