"""Prompts that every model answered, and what a router's decisions on them are worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from policies.datasets import OutcomeMatrix
from policies.metrics import (
    aiq,
    best_single_choices,
    gap_closed,
    mix_line_aiq,
    oracle_rewards,
    single_model_rewards,
)
from policies.preference import cost_term, dial_grid

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Figures:
    """What one router's decisions over the dial are worth.

    Attributes:
        aiq: mean quality of the hull over the single models' cost range.
        mean_reward: over dial and prompts.
        gap_closed: of the gap between the best single model per preference and the oracle, NaN without one.
    """

    aiq: float
    mean_reward: float
    gap_closed: float


@dataclass(frozen=True)
class Bench:
    """One split's completely observed prompts with the yardstick of the whole pool.

    Attributes:
        split: its name.
        data: n prompts, no missing outcome.
        w_cost: shape (S,), the dial.
        tau_usd: cost scale.
        best_single: shape (S,), best fixed model on training prompts.
    """

    split: str
    data: OutcomeMatrix
    w_cost: FloatArray
    tau_usd: float
    best_single: IntArray

    @classmethod
    def of(cls, split: str, data: OutcomeMatrix, training: OutcomeMatrix, tau_usd: float) -> Self:
        """Return the bench of a split's complete prompts; best single models come from complete training prompts."""
        grid = dial_grid()
        best = best_single_choices(training.scores, training.costs_usd, grid, tau_usd)
        return cls(split, data, grid, tau_usd, best)

    def figures(self, choices: IntArray) -> Figures:
        """Return the worth of decisions, shape (S, n), columns of the pool."""
        scores, costs = self.data.scores, self.data.costs_usd
        rows = np.arange(len(scores))
        quality, cost = scores[rows, choices].mean(axis=1), costs[rows, choices].mean(axis=1)
        rewards = self.rewards(choices, self.w_cost)
        best = single_model_rewards(self.best_single, scores, costs, self.w_cost, self.tau_usd).mean()
        oracle = oracle_rewards(scores, costs, self.w_cost, self.tau_usd).mean()
        reward = float(rewards.mean())
        return Figures(
            aiq(cost, quality, costs.mean(axis=0), scores.mean(axis=0)),
            reward,
            gap_closed(reward, float(best), float(oracle)),
        )

    def rewards(self, choices: IntArray, w_cost: FloatArray) -> FloatArray:
        """Return the mean reward at each setting, shape (S,), of decisions (S, n)."""
        rows = np.arange(len(self.data))
        quality = self.data.scores[rows, choices].mean(axis=1)
        cost = np.asarray(cost_term(self.data.costs_usd, self.tau_usd))[rows, choices].mean(axis=1)
        return np.asarray((1.0 - w_cost) * quality - w_cost * cost)

    @property
    def mix_line_aiq(self) -> float:
        """AIQ of what coin flips between two models achieve."""
        return mix_line_aiq(self.data.costs_usd.mean(axis=0), self.data.scores.mean(axis=0))


def columns_of(data: OutcomeMatrix, columns: npt.ArrayLike) -> OutcomeMatrix:
    """Return the same prompts with some of the pool's models, in that order."""
    i = np.asarray(columns, dtype=np.int64)
    pool = replace(data.pool, specs=tuple(data.pool.specs[j] for j in i))
    return replace(
        data,
        pool=pool,
        scores=data.scores[:, i],
        costs_usd=data.costs_usd[:, i],
        completion_tokens=data.completion_tokens[:, i],
    )


Benches = Mapping[str, Bench]
"""By split."""
