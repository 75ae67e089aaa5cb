"""What a call would cost: prices times the prompt's tokens and each model's expected answer length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.pool import ModelPool

CHARACTERS_PER_TOKEN = 4.0
"""Rule of thumb for English text, used wherever no tokenizer's count was logged."""


def estimate_tokens(characters: int) -> int:
    """Return the estimated number of tokens of a text: characters / 4, at least 1."""
    return max(math.ceil(characters / CHARACTERS_PER_TOKEN), 1)


def estimate_prompt_tokens(texts: list[str]) -> npt.NDArray[np.float64]:
    """Return the estimated number of tokens of each prompt, shape (n,): characters / 4, at least 1."""
    lengths = np.array([len(text) for text in texts], dtype=np.float64)
    return np.maximum(np.ceil(lengths / CHARACTERS_PER_TOKEN), 1.0)


@dataclass(frozen=True)
class CostModel:
    """Expected cost of a call per model: ``input price x prompt tokens + output price x mean answer tokens``.

    The means are chosen so that the average prediction over the training prompts equals the average cost that
    was observed, also where the table has costs but no token counts.

    Attributes:
        prices_per_token_usd: shape (n_models, 2), input and output.
        mean_prompt_tokens: training mean, used when a request's length is unknown.
        mean_output_cost_usd: shape (n_models,), mean cost beyond the prompt's: answer and price of the call.
    """

    prices_per_token_usd: npt.NDArray[np.float64]
    mean_prompt_tokens: float
    mean_output_cost_usd: npt.NDArray[np.float64]

    def expected_costs_usd(
        self, prompt_tokens: npt.NDArray[np.floating] | None, n: int
    ) -> npt.NDArray[np.float64]:
        """Return expected costs, shape (n, n_models), USD per call."""
        tokens = np.full(n, self.mean_prompt_tokens) if prompt_tokens is None else np.asarray(prompt_tokens)
        return tokens[:, None] * self.prices_per_token_usd[None, :, 0] + self.mean_output_cost_usd[None, :]

    @classmethod
    def fit(cls, data: OutcomeMatrix | LoggedFeedback) -> Self:
        """Fit to the observed costs; a model never observed is taken to answer at the average length."""
        pool: ModelPool = data.pool
        prices = pool.prices_per_token_usd
        if isinstance(data, OutcomeMatrix):
            costs = data.costs_usd
        else:
            costs = np.full((len(data), len(pool.models)), np.nan)
            costs[np.arange(len(data)), data.actions] = data.costs_usd
        per_call = pool.prices_per_call_usd
        beyond_prompt = costs - data.prompt_tokens[:, None] * prices[None, :, 0]
        seen = np.isfinite(beyond_prompt)
        count = seen.sum(axis=0)
        total = np.where(seen, beyond_prompt, 0.0).sum(axis=0)
        mean = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
        priced = (count > 0) & (prices[:, 1] > 0)
        answer_usd = mean[priced] - per_call[priced]
        answer_tokens = float(np.mean(answer_usd / prices[priced, 1])) if priced.any() else 0.0
        mean = np.where(count > 0, mean, per_call + answer_tokens * prices[:, 1])
        return cls(prices, float(np.mean(data.prompt_tokens)), np.maximum(mean, 0.0))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return {
            "prices_per_token_usd": self.prices_per_token_usd.tolist(),
            "mean_prompt_tokens": self.mean_prompt_tokens,
            "mean_output_cost_usd": self.mean_output_cost_usd.tolist(),
        }

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Self:
        """Read the form written by :meth:`to_dict`."""
        return cls(
            np.array(body["prices_per_token_usd"], dtype=np.float64),
            float(body["mean_prompt_tokens"]),
            np.array(body["mean_output_cost_usd"], dtype=np.float64),
        )
