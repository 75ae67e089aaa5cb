"""Routers that learn nothing, or nearly nothing: the lines that every learned policy must beat."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from policies.base import BoolArray, FloatArray, Policy, greedy
from policies.preference import cost_term, reward


@dataclass(frozen=True)
class AlwaysPolicy(Policy):
    """Always call one model; where it is not eligible, any eligible one with equal probability."""

    kind: ClassVar[str] = "always"
    models: tuple[str, ...]
    model: str

    def action_probabilities(
        self,
        embeddings: FloatArray,
        preferences: FloatArray,
        eligible: BoolArray | None = None,
        *,
        prompt_tokens: FloatArray | None = None,
    ) -> npt.NDArray[np.float64]:
        mask = self.checked_eligible(len(embeddings), eligible)
        column = self.models.index(self.model)
        probabilities = mask / mask.sum(axis=1, keepdims=True)
        wanted = mask[:, column]
        probabilities[wanted] = 0.0
        probabilities[wanted, column] = 1.0
        return probabilities

    def save(self, directory: Path) -> None:
        (directory / "policy.json").write_text(json.dumps({"model": self.model}))

    @classmethod
    def load(cls, directory: Path, models: tuple[str, ...]) -> Self:
        return cls(models, **json.loads((directory / "policy.json").read_text()))


@dataclass(frozen=True)
class RandomPolicy(Policy):
    """Call every eligible model with the same probability: the cleanest logging policy."""

    kind: ClassVar[str] = "random"
    models: tuple[str, ...]

    def action_probabilities(
        self,
        embeddings: FloatArray,
        preferences: FloatArray,
        eligible: BoolArray | None = None,
        *,
        prompt_tokens: FloatArray | None = None,
    ) -> npt.NDArray[np.float64]:
        mask = self.checked_eligible(len(embeddings), eligible)
        return mask / mask.sum(axis=1, keepdims=True)

    def save(self, directory: Path) -> None:
        (directory / "policy.json").write_text("{}")

    @classmethod
    def load(cls, directory: Path, models: tuple[str, ...]) -> Self:
        return cls(models)


@dataclass(frozen=True)
class BestSinglePolicy(Policy):
    """Per preference, the fixed model with the best mean training reward: what routing must beat.

    Attributes:
        models: names in column order.
        mean_scores: shape (n_models,), mean training score.
        mean_cost_terms: shape (n_models,), mean training ``min(c / tau, 1)``.
    """

    kind: ClassVar[str] = "best_single"
    models: tuple[str, ...]
    mean_scores: npt.NDArray[np.float64]
    mean_cost_terms: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, models: tuple[str, ...], scores: FloatArray, costs_usd: FloatArray, tau_usd: float) -> Self:
        """Fit to completely observed training prompts, shapes (n, n_models)."""
        return cls(models, scores.mean(axis=0), cost_term(costs_usd, tau_usd).mean(axis=0))

    def action_probabilities(
        self,
        embeddings: FloatArray,
        preferences: FloatArray,
        eligible: BoolArray | None = None,
        *,
        prompt_tokens: FloatArray | None = None,
    ) -> npt.NDArray[np.float64]:
        mask = self.checked_eligible(len(embeddings), eligible)
        w = np.asarray(preferences, dtype=np.float64)
        value = w[:, :1] * self.mean_scores[None, :] - w[:, 1:] * self.mean_cost_terms[None, :]
        return greedy(np.where(mask, value, -np.inf))

    def save(self, directory: Path) -> None:
        body = {"mean_scores": self.mean_scores.tolist(), "mean_cost_terms": self.mean_cost_terms.tolist()}
        (directory / "policy.json").write_text(json.dumps(body))

    @classmethod
    def load(cls, directory: Path, models: tuple[str, ...]) -> Self:
        body = json.loads((directory / "policy.json").read_text())
        return cls(models, np.array(body["mean_scores"]), np.array(body["mean_cost_terms"]))


@dataclass(frozen=True)
class OraclePolicy(Policy):
    """Per prompt, the model with the best realised reward: the bound that no router can pass.

    It answers only for the prompts whose outcomes it holds, in their order, and cannot be saved.

    Attributes:
        models: names in column order.
        scores: shape (n, n_models).
        costs_usd: shape (n, n_models), USD per call.
        tau_usd: cost scale in USD.
    """

    kind: ClassVar[str] = "oracle"
    models: tuple[str, ...]
    scores: npt.NDArray[np.float64]
    costs_usd: npt.NDArray[np.float64]
    tau_usd: float

    def action_probabilities(
        self,
        embeddings: FloatArray,
        preferences: FloatArray,
        eligible: BoolArray | None = None,
        *,
        prompt_tokens: FloatArray | None = None,
    ) -> npt.NDArray[np.float64]:
        if len(embeddings) != len(self.scores):
            raise ValueError(f"the oracle knows {len(self.scores)} prompts, asked about {len(embeddings)}")
        mask = self.checked_eligible(len(embeddings), eligible)
        value = reward(self.scores, self.costs_usd, np.asarray(preferences), self.tau_usd)
        return greedy(np.where(mask, value, -np.inf))
