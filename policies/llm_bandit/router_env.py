"""The routing problem as a one-step vector environment: one step decides thousands of prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch

from policies.llm_bandit.contexts import DecisionTable
from policies.llm_bandit.sampling import SetSampler
from policies.llm_bandit.set_network import Normalisation, normalised

Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

INPUTS, ARMS, MASK, PREFERENCES = "inputs", "arms", "mask", "preferences"
"""Keys of an observation: (p,), (N, m + 2), (N,) and (M, 2) per environment."""


class Payment(NamedTuple):
    """What decisions earn and pay, normalised; shapes (n, M)."""

    score: Float32Array
    cost_term: Float32Array


class RouterVectorEnv(gym.vector.VectorEnv):
    """Each environment is a prompt with a candidate set, decided under M preferences in one action.

    Environments 2 i and 2 i + 1 are neighbouring prompts with the same candidates and preferences: the pairs that
    on-manifold mixup needs. Every step ends every episode and draws new prompts, sets and preferences.
    """

    metadata: dict[str, Any] = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self,
        table: DecisionTable,
        sampler: SetSampler,
        *,
        num_envs: int,
        preferences_per_set: int,
        normalisation: Normalisation,
        seed: int,
    ) -> None:
        if num_envs % 2:
            raise ValueError(f"num_envs is {num_envs}: must be even, prompts come in pairs")
        self.table, self.sampler, self.num_envs = table, sampler, num_envs
        self.preferences_per_set, self.normalisation = preferences_per_set, normalisation
        self.width = min(sampler.max_candidates, table.scores.shape[1])
        self._usable = np.flatnonzero(table.available.any(axis=1))
        self._rng = np.random.default_rng(seed)
        self.single_observation_space = observation_space(
            table.inputs.shape[1], table.identity.shape[1] + 2, self.width, preferences_per_set
        )
        self.single_action_space = gym.spaces.MultiDiscrete([self.width] * preferences_per_set)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, num_envs)

    @classmethod
    def open(cls, directory: str | Path, sampler: dict[str, Any], **kwargs: Any) -> RouterVectorEnv:
        """Return an environment on a table written by :meth:`DecisionTable.write`; processes share its pages."""
        return cls(DecisionTable.open(Path(directory)), SetSampler(**sampler), **kwargs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Draw prompts, candidate sets and preferences; return the observation and an empty info."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        table, rng, pairs = self.table, self._rng, self.num_envs // 2
        one = self._usable[rng.integers(0, len(self._usable), pairs)]
        other = table.neighbours[one, rng.integers(0, table.neighbours.shape[1], pairs)]
        shared = (table.available[one] & table.available[other]).any(axis=1)
        # A neighbour without a model in common is no partner: the prompt is its own.
        other = np.where(shared, other, one)
        columns, mask = self.sampler.candidates(table.available[one] & table.available[other], rng)
        rows = np.stack([one, other], axis=1).ravel()
        columns, mask = np.repeat(columns, 2, axis=0), np.repeat(mask, 2, axis=0)
        w = np.repeat(self.sampler.preferences(pairs, self.preferences_per_set, rng), 2, axis=0)
        observation = {
            INPUTS: table.inputs[rows],
            ARMS: table.arms(rows, columns),
            MASK: mask,
            PREFERENCES: w,
        }
        at = rows[:, None]
        paid = normalised(
            torch.from_numpy(table.paid_scores[at, columns]),
            torch.from_numpy(table.paid_cost_terms[at, columns]),
            torch.from_numpy(mask),
            self.normalisation,
        )
        self._paid = Payment(*(values.numpy() for values in paid))
        self._preferences = w
        return observation, {}

    def pay(self, actions: IntArray) -> Payment:
        """Return what actions, candidate positions of shape (n, M), earn on the prompts drawn last."""
        return Payment(*(np.take_along_axis(values, actions, axis=1) for values in self._paid))

    def step(self, actions: Any) -> tuple[dict[str, npt.NDArray[Any]], Any, Any, Any, dict[str, Any]]:
        """Return the next prompts, this step's mean reward over preferences (n,), and that all episodes ended."""
        chosen = np.asarray(actions, dtype=np.int64).reshape(self.num_envs, self.preferences_per_set)
        paid = self.pay(chosen)
        reward = (self._preferences[..., 0] * paid.score - self._preferences[..., 1] * paid.cost_term).mean(1)
        ended, not_cut = np.ones(self.num_envs, bool), np.zeros(self.num_envs, bool)
        observation, info = self.reset()
        return observation, reward, ended, not_cut, info


def observation_space(inputs: int, token: int, width: int, preferences: int) -> gym.spaces.Dict:
    """Return the space of one environment's observation."""

    def box(*shape: int) -> gym.spaces.Box:
        return gym.spaces.Box(-np.inf, np.inf, shape, np.float32)

    return gym.spaces.Dict(
        {
            INPUTS: box(inputs),
            ARMS: box(width, token),
            MASK: gym.spaces.MultiBinary(width),
            PREFERENCES: gym.spaces.Box(0.0, 1.0, (preferences, 2), np.float32),
        }
    )
