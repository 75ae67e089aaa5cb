"""What identity vectors are learned from: a full table, a partial log, pairwise comparisons, or any mixture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from policies.datasets import LoggedFeedback, OutcomeMatrix

Float64Array = npt.NDArray[np.float64]

PROMPT_SHARE_CAP = 0.95
"""The prompt is never taken to explain more than this share of an observed cost: tokens are estimated."""

FREE_CALL_SHARE = 1e-6
"""A free call has no logarithm: this share of the cost scale stands for it."""

TIE = 0.5
"""What a tie counts for in a comparison: half a win for either side."""


@dataclass(frozen=True)
class Observations:
    """Outcomes as a sparse matrix in dense form, NaN where nothing was seen.

    Attributes:
        prompt_ids: shape (n,); rows of the same prompt are never split between folds.
        embeddings: shape (n, d).
        prompt_tokens: shape (n,).
        scores: shape (n, K), in [0, 1].
        costs_usd: shape (n, K), USD per call.
    """

    prompt_ids: npt.NDArray[np.str_]
    embeddings: npt.NDArray[np.float32]
    prompt_tokens: Float64Array
    scores: Float64Array
    costs_usd: Float64Array

    def __len__(self) -> int:
        return len(self.prompt_ids)

    @classmethod
    def of(cls, data: OutcomeMatrix | LoggedFeedback) -> Self:
        """Return the observations of a full table, or one per row of a log."""
        scores, costs_usd = data.scores, data.costs_usd
        if isinstance(data, LoggedFeedback):
            at = (np.arange(len(data)), data.actions)
            tables = []
            for values in (scores, costs_usd):
                table = np.full((len(data), len(data.pool.models)), np.nan)
                table[at] = values
                tables.append(table)
            scores, costs_usd = tables
        return cls(data.prompt_ids, data.embeddings, data.prompt_tokens, scores, costs_usd)

    def rows(self, index: npt.ArrayLike) -> Self:
        """Return the rows chosen by a mask or by positions."""
        i = np.asarray(index)
        return type(self)(
            self.prompt_ids[i], self.embeddings[i], self.prompt_tokens[i], self.scores[i], self.costs_usd[i]
        )

    def columns(self, index: npt.ArrayLike) -> Self:
        """Return the same prompts with the models chosen by a mask or by positions."""
        i = np.asarray(index)
        return type(self)(
            self.prompt_ids, self.embeddings, self.prompt_tokens, self.scores[:, i], self.costs_usd[:, i]
        )

    def folds(self, n_folds: int) -> npt.NDArray[np.int64]:
        """Return a fold 0 .. n_folds - 1 per row, shape (n,); equal prompts share one.

        Raises:
            ValueError: fewer distinct prompts than folds.
        """
        _, group = np.unique(self.prompt_ids, return_inverse=True)
        n_groups = int(group.max(initial=-1)) + 1
        if n_groups < n_folds:
            raise ValueError(f"{n_groups} distinct prompts cannot be dealt into {n_folds} folds")
        dealt = np.random.default_rng(n_groups).permutation(n_groups) % n_folds
        return dealt[group].astype(np.int64)


@dataclass(frozen=True)
class Comparisons:
    """Which of two models answered a prompt better, without a score.

    Attributes:
        embeddings: shape (n, d).
        prompt_tokens: shape (n,).
        first: shape (n,), column of one model.
        second: shape (n,), column of the other.
        first_wins: shape (n,), 1 where the first won, 0 where the second did, 0.5 for a tie.
    """

    embeddings: npt.NDArray[np.float32]
    prompt_tokens: Float64Array
    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    first_wins: Float64Array

    def __len__(self) -> int:
        return len(self.first)

    @classmethod
    def none(cls, dimension: int) -> Self:
        """Return no comparison of prompts with vectors of length ``dimension``."""
        no = np.zeros(0, dtype=np.int64)
        return cls(np.zeros((0, dimension), np.float32), np.zeros(0), no, no, np.zeros(0))


def log_output_costs(
    observations: Observations, input_price_per_token_usd: Float64Array, tau_usd: float
) -> Float64Array:
    """Return the natural logarithm of what each call cost beyond its prompt, shape (n, K), log USD.

    Args:
        observations: n rows over K models.
        input_price_per_token_usd: shape (K,).
        tau_usd: cost scale, USD; bounds the logarithm of free calls.
    """
    costs = observations.costs_usd
    prompt_cost = observations.prompt_tokens[:, None] * input_price_per_token_usd
    beyond = np.maximum(costs - prompt_cost, (1.0 - PROMPT_SHARE_CAP) * costs)
    return np.log(np.maximum(beyond, FREE_CALL_SHARE * tau_usd))


def binarised(scores: Float64Array) -> Float64Array:
    """Return scores as 0 or 1 by the threshold that keeps their mean (LLM Bandit, arXiv 2502.02743, stage 1).

    The threshold is one for the whole table; of equal scores at it, all become 1. NaN stays NaN.
    """
    seen = scores[np.isfinite(scores)]
    if seen.size == 0 or np.isin(seen, (0.0, 1.0)).all():
        return scores
    levels = np.unique(seen)
    share = np.array([(seen >= level).mean() for level in levels])
    threshold = levels[np.abs(share - seen.mean()).argmin()]
    return np.where(np.isfinite(scores), (scores >= threshold).astype(np.float64), np.nan)
