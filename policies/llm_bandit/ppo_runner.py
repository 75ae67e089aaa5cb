"""Experience for PPO: one forward pass and one environment step per batch, no episodes, no connectors.

RLlib's own runner builds an episode per environment and step, of which every second is a reset; on one-step episodes
that is most of its time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch, concat_samples

from policies.llm_bandit.router_env import ARMS, INPUTS, PREFERENCES, RouterVectorEnv

ADVANTAGES, VALUE_TARGETS, VALUES = "advantages", "value_targets", "values"

Float32Array = npt.NDArray[np.float32]


class RouterEnvRunner(SingleAgentEnvRunner):
    """Returns finished training batches from :meth:`sample` instead of episodes."""

    def sample(  # type: ignore[override]
        self, *, num_timesteps: int | None = None, **kwargs: Any
    ) -> MultiAgentBatch:
        """Return at least ``num_timesteps`` decisions, a row for each prompt with its set.

        Columns: the observation, ``actions`` and ``action_logp`` (n, M), ``advantages`` (n, M) and
        ``value_targets`` (n, 2).
        """
        env = self.env.unwrapped
        per_step = env.num_envs * env.preferences_per_set
        steps = max(1, -(-(num_timesteps or per_step) // per_step))
        batches, rewards = [], []
        for _ in range(steps):
            batch, reward = self._decide(env)
            batches.append(batch)
            rewards.append(reward)
        done = steps * per_step
        self._increase_sampled_metrics(done, done)
        self._log_episode_metrics(1, float(np.mean(rewards)), 0.0)
        return MultiAgentBatch({DEFAULT_MODULE_ID: concat_samples(batches)}, env_steps=done)

    def _decide(self, env: RouterVectorEnv) -> tuple[SampleBatch, float]:
        observation, _ = env.reset()
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(values) for name, values in observation.items()}
            out = self.module.forward_exploration({Columns.OBS: tensors})
            log_pi = torch.log_softmax(out[Columns.ACTION_DIST_INPUTS], dim=2)
            # Gumbel-max: one draw per row and preference.
            noise = -torch.empty_like(log_pi).exponential_().clamp_min(1e-30).log()
            actions = (log_pi + noise).argmax(dim=2)
        w, values = observation[PREFERENCES], out[VALUES].numpy()
        chosen, log_probability = actions.numpy(), log_pi.numpy()
        paid = env.pay(chosen)
        swapped = np.arange(env.num_envs) ^ 1
        # What the partner prompt would have been paid for the same action, and how likely it was there.
        theirs = env.pay(chosen[swapped])
        own = _advantages(w, paid.score, paid.cost_term, values)
        other = _advantages(w, theirs.score[swapped], theirs.cost_term[swapped], values[swapped])
        share = self._dominant_share(env.num_envs)
        at = chosen[:, :, None]
        p_own = np.exp(np.take_along_axis(log_probability, at, axis=2))[..., 0]
        p_other = np.exp(np.take_along_axis(log_probability[swapped], at, axis=2))[..., 0]
        targets = np.stack([paid.score.mean(axis=1), paid.cost_term.mean(axis=1)], axis=1)
        mixed_obs = dict(observation)
        for name in (INPUTS, ARMS):
            mixed_obs[name] = _mixed(share, observation[name], observation[name][swapped])
        batch = SampleBatch(
            {
                Columns.OBS: mixed_obs,
                Columns.ACTIONS: chosen,
                Columns.ACTION_LOGP: np.log(np.maximum(_mixed(share, p_own, p_other), 1e-12)),
                ADVANTAGES: _mixed(share, own, other),
                VALUE_TARGETS: _mixed(share, targets, targets[swapped]),
            }
        )
        reward = (w[..., 0] * paid.score - w[..., 1] * paid.cost_term).mean()
        return batch, float(reward)

    def _dominant_share(self, n: int) -> Float32Array:
        """Return the share lambda >= 1/2 of a row in its mixture, shape (n,); 1 without mixup."""
        alpha = self.config.mixup_alpha
        if alpha <= 0.0:
            return np.ones(n, dtype=np.float32)
        if not hasattr(self, "_rng"):
            self._rng = np.random.default_rng([self.config.seed, 3, self.worker_index or 0])
        share = self._rng.beta(alpha, alpha, n)
        return np.maximum(share, 1.0 - share).astype(np.float32)


def _advantages(
    w: Float32Array, score: Float32Array, cost_term: Float32Array, values: Float32Array
) -> Float32Array:
    """Return ``w . (r - V)``, shape (n, M): what generalised advantage estimation is for one step."""
    return w[..., 0] * (score - values[:, :1]) - w[..., 1] * (cost_term - values[:, 1:])


def _mixed(share: Float32Array, own: npt.NDArray[Any], other: npt.NDArray[Any]) -> Float32Array:
    s = share.reshape(-1, *[1] * (own.ndim - 1))
    return (s * own + (1.0 - s) * other).astype(np.float32)
