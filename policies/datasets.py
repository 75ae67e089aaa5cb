"""What learners learn from: dense arrays joined from the tables, in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from policies.pool import ModelPool
from policies.preference import default_tau_usd

StrArray = npt.NDArray[np.str_]


@dataclass(frozen=True)
class OutcomeMatrix:
    """Full information: every model's outcome on every prompt, as far as observed.

    Attributes:
        prompt_ids: shape (n,).
        tasks: shape (n,), empty string where unknown.
        pool: the models, in column order.
        embeddings: shape (n, d), float32.
        prompt_tokens: shape (n,), float64.
        scores: shape (n, n_models), in [0, 1], NaN where not observed.
        costs_usd: shape (n, n_models), USD per call, NaN where not observed.
        completion_tokens: shape (n, n_models), NaN where unknown.
    """

    prompt_ids: StrArray
    tasks: StrArray
    pool: ModelPool
    embeddings: npt.NDArray[np.float32]
    prompt_tokens: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    costs_usd: npt.NDArray[np.float64]
    completion_tokens: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def rows(self, index: npt.ArrayLike) -> Self:
        """Return the prompts chosen by a mask or by positions."""
        index = np.asarray(index)
        return replace(
            self,
            prompt_ids=self.prompt_ids[index],
            tasks=self.tasks[index],
            embeddings=self.embeddings[index],
            prompt_tokens=self.prompt_tokens[index],
            scores=self.scores[index],
            costs_usd=self.costs_usd[index],
            completion_tokens=self.completion_tokens[index],
        )

    @property
    def observed(self) -> npt.NDArray[np.bool_]:
        """True where both score and cost are known, shape (n, n_models)."""
        return np.isfinite(self.scores) & np.isfinite(self.costs_usd)

    def complete(self) -> Self:
        """Return the prompts that every model of the pool answered (what comparisons are made on)."""
        return self.rows(self.observed.all(axis=1))

    def tau_usd(self) -> float:
        """Return the default cost scale: the 95th percentile of the costs of completely observed prompts."""
        return default_tau_usd(self.complete().costs_usd)


@dataclass(frozen=True)
class LoggedFeedback:
    """Partial feedback: one row per event, the outcome of the called model alone.

    Attributes:
        event_ids: shape (n,).
        prompt_ids: shape (n,).
        tasks: shape (n,), empty string where unknown.
        pool: the models, in column order.
        embeddings: shape (n, d), float32.
        prompt_tokens: shape (n,).
        preferences: shape (n, 2), the (w_quality, w_cost) of the decision.
        eligible: shape (n, n_models), bool.
        actions: shape (n,), column of the called model.
        propensities: shape (n,), in (0, 1].
        scores: shape (n,), NaN where the score has not (yet) arrived.
        costs_usd: shape (n,), NaN where unknown.
        completion_tokens: shape (n,), NaN where unknown.
        n_without_outcome: events of the log that were left out because score or cost had not arrived.
    """

    event_ids: StrArray
    prompt_ids: StrArray
    tasks: StrArray
    pool: ModelPool
    embeddings: npt.NDArray[np.float32]
    prompt_tokens: npt.NDArray[np.float64]
    preferences: npt.NDArray[np.float32]
    eligible: npt.NDArray[np.bool_]
    actions: npt.NDArray[np.int64]
    propensities: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    costs_usd: npt.NDArray[np.float64]
    completion_tokens: npt.NDArray[np.float64]
    n_without_outcome: int = 0

    def __len__(self) -> int:
        return len(self.event_ids)

    def rows(self, index: npt.ArrayLike) -> Self:
        """Return the events chosen by a mask or by positions."""
        index = np.asarray(index)
        return replace(
            self,
            event_ids=self.event_ids[index],
            prompt_ids=self.prompt_ids[index],
            tasks=self.tasks[index],
            embeddings=self.embeddings[index],
            prompt_tokens=self.prompt_tokens[index],
            preferences=self.preferences[index],
            eligible=self.eligible[index],
            actions=self.actions[index],
            propensities=self.propensities[index],
            scores=self.scores[index],
            costs_usd=self.costs_usd[index],
            completion_tokens=self.completion_tokens[index],
        )

    def scored(self) -> Self:
        """Return the events whose score and cost have both arrived: a missing outcome is never a 0."""
        known = np.isfinite(self.scores) & np.isfinite(self.costs_usd)
        # Vectors may be a mapped file of gigabytes: no copy where nothing is left out.
        if known.all():
            return self
        missing = self.n_without_outcome + int((~known).sum())
        return replace(self.rows(known), n_without_outcome=missing)

    def tau_usd(self) -> float:
        """Return the default cost scale: the 95th percentile of the logged costs."""
        return default_tau_usd(self.costs_usd)
