"""The trained LLM Bandit as a router over its pool: numpy alone, no Ray, no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from policies.base import BoolArray, FloatArray, Judgement, Policy, masked_softmax
from policies.errors import InputError
from policies.llm_bandit.identity_vectors import (
    ARM_ARRAYS,
    Arms,
    Predictions,
    ScoringNetwork,
    expected_output_cost_usd,
    logit_std,
    predict,
    predict_from,
)
from policies.llm_bandit.set_policy import FrozenSetPolicy
from policies.outcome_model.features import ContextFeatures

CHUNK_ROWS = 2048
"""Rows in one pass: bounds the memory of a large batch."""

SETTINGS_FILE, ARRAYS_FILE = "llm_bandit.json", "llm_bandit.safetensors"

NETWORK_ARRAYS = ("trunk", "trunk_bias", "difficulty", "offset", "loading", "loading_bias")


@dataclass(frozen=True)
class LlmBanditPolicy(Policy):
    """``pi(k | x, C, w)`` over the eligible models, which are the candidate set C (LLM Bandit, arXiv 2502.02743).

    Attributes:
        network: stage 1, predicts scores and lengths from identity vectors.
        arms: identity vector and price of every model of the pool, in column order.
        decider: stage 2, decides over any set of candidates.
    """

    kind: ClassVar[str] = "llm_bandit"
    network: ScoringNetwork
    arms: Arms
    decider: FrozenSetPolicy

    @property
    def models(self) -> tuple[str, ...]:  # type: ignore[override]
        """The pool's models in column order."""
        return self.arms.models

    def with_arms(self, arms: Arms) -> Self:
        """Return the same policy over another pool: no weight depends on the number of models."""
        return replace(self, arms=arms)

    def predictions(self, embeddings: FloatArray, prompt_tokens: FloatArray | None = None) -> Predictions:
        """Return predicted outcomes of every model of the pool for embeddings (n, d)."""
        tokens = self._tokens(len(embeddings), prompt_tokens)
        return predict(self.network, self.arms, self.network.inputs(embeddings, tokens), tokens)

    def logit_std(self, embeddings: FloatArray, prompt_tokens: FloatArray | None = None) -> FloatArray:
        """Return how uncertain each predicted logit is because the model's vector is, shape (n, K)."""
        tokens = self._tokens(len(embeddings), prompt_tokens)
        loadings = self.network.loadings(self.network.inputs(embeddings, tokens))
        return logit_std(self.network, loadings, self.arms)

    def action_probabilities(
        self,
        embeddings: FloatArray,
        preferences: FloatArray,
        eligible: BoolArray | None = None,
        *,
        prompt_tokens: FloatArray | None = None,
    ) -> npt.NDArray[np.float64]:
        n = len(embeddings)
        checked = self.checked_preferences(embeddings, preferences, len(self.network.features.mean))
        mask = self.checked_eligible(n, eligible)
        tokens = self._tokens(n, prompt_tokens)
        w = checked.astype(np.float32)
        chunks = [
            self._decide(embeddings[at], w[at], mask[at], tokens[at])
            for at in (slice(i, i + CHUNK_ROWS) for i in range(0, n, CHUNK_ROWS))
        ]
        return np.concatenate(chunks) if chunks else np.zeros((0, len(self.models)))

    def over_dial(
        self,
        embeddings: FloatArray,
        dial: FloatArray,
        eligible: BoolArray | None = None,
        *,
        prompt_tokens: FloatArray | None = None,
    ) -> Iterator[npt.NDArray[np.float64]]:
        n = len(embeddings)
        settings = self.checked_dial(dial).astype(np.float32)
        self.checked_preferences(embeddings, np.zeros((n, 2)), len(self.network.features.mean))
        mask = self.checked_eligible(n, eligible)
        tokens = self._tokens(n, prompt_tokens)
        at = [slice(i, i + CHUNK_ROWS) for i in range(0, n, CHUNK_ROWS)]
        # Held for all rows, n x (components + a few numbers per model); the candidates made of them, a dozen times as
        # much, are built anew for each chunk.
        inputs = [self.network.inputs(embeddings[rows], tokens[rows]) for rows in at]
        predicted = [predict(self.network, self.arms, x, tokens[rows]) for x, rows in zip(inputs, at)]
        for w in settings:
            chunks = [
                self._probabilities(x, found, mask[rows], np.broadcast_to(w, (len(x), 2)))
                for x, found, rows in zip(inputs, predicted, at)
            ]
            yield np.concatenate(chunks) if chunks else np.zeros((0, len(self.models)))

    def _decide(
        self, embeddings: FloatArray, w: npt.NDArray[np.float32], mask: BoolArray, tokens: FloatArray
    ) -> npt.NDArray[np.float64]:
        inputs = self.network.inputs(embeddings, tokens)
        return self._probabilities(inputs, predict(self.network, self.arms, inputs, tokens), mask, w)

    def _probabilities(
        self,
        inputs: npt.NDArray[np.float32],
        predicted: Predictions,
        mask: BoolArray,
        w: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float64]:
        return masked_softmax(self.decider.logits(inputs, self.candidates(predicted), mask, w), mask)

    def candidates(self, predicted: Predictions) -> npt.NDArray[np.float32]:
        """Return the set policy's tokens, shape (n, K, m + 2)."""
        n, k = predicted.scores.shape
        candidates = np.empty((n, k, self.network.identity_dim + 2), dtype=np.float32)
        candidates[..., :-2] = self.arms.identity
        candidates[..., -2] = predicted.cost_terms
        candidates[..., -1] = predicted.scores
        return candidates

    def judge(
        self, embedding: FloatArray, preference: tuple[float, float], prompt_tokens: float
    ) -> Judgement:
        """Return stage 1's predictions, and stage 2's decision once the candidates are known.

        The expected cost is ``r (a + exp(m + sigma^2 / 2))``: the prompt's cost a and the mean of the lognormal whose
        capped mean is the cost term, with the same recalibration r.
        """
        tokens = np.array([prompt_tokens], dtype=np.float64)
        inputs = self.network.inputs(embedding[None], tokens)
        loadings = self.network.loadings(inputs)
        predicted = predict_from(self.network, self.arms, loadings, tokens)
        scores = predicted.scores[0]
        prompt_cost = prompt_tokens * self.arms.input_price_per_token_usd * self.arms.recalibration
        candidates = self.candidates(predicted)
        return Judgement(
            preference[0] * scores - preference[1] * predicted.cost_terms[0],
            scores,
            prompt_cost + expected_output_cost_usd(self.network, loadings, self.arms)[0],
            partial(self._among, inputs, candidates, np.array([preference], dtype=np.float32)),
            logit_std(self.network, loadings, self.arms)[0],
        )

    def _among(
        self,
        inputs: npt.NDArray[np.float32],
        candidates: npt.NDArray[np.float32],
        w: npt.NDArray[np.float32],
        eligible: BoolArray,
    ) -> npt.NDArray[np.float64]:
        """Return the decision of one prompt among the eligible models, shape (K,)."""
        columns = np.flatnonzero(eligible)
        if len(columns) < len(eligible):
            candidates = candidates[:, columns]
        mask = np.ones((1, len(columns)), dtype=bool)
        row = np.zeros(len(eligible))
        row[columns] = masked_softmax(self.decider.logits(inputs, candidates, mask, w), mask)[0]
        return row

    def _tokens(self, n: int, prompt_tokens: FloatArray | None) -> npt.NDArray[np.float64]:
        if prompt_tokens is None:
            return np.full(n, self.network.features.mean_tokens)
        return np.asarray(prompt_tokens, dtype=np.float64)

    def save(self, directory: Path) -> None:
        features = self.network.features
        arrays = {name: getattr(self.network, name) for name in NETWORK_ARRAYS}
        arrays |= {f"arms.{name}": getattr(self.arms, name) for name in ARM_ARRAYS}
        arrays |= {f"decider.{name}": value for name, value in self.decider.weights.items()}
        arrays |= {"features.mean": features.mean, "features.basis": features.basis}
        save_file(
            {name: np.ascontiguousarray(value) for name, value in arrays.items()}, directory / ARRAYS_FILE
        )
        settings: dict[str, Any] = {
            "platt": list(self.network.platt),
            "length_std": self.network.length_std,
            "tau_usd": self.network.tau_usd,
            "log_tokens_mean": features.log_tokens_mean,
            "log_tokens_std": features.log_tokens_std,
            "token_scale": features.token_scale,
            "decider": self.decider.shape,
        }
        (directory / SETTINGS_FILE).write_text(json.dumps(settings, sort_keys=True))

    @classmethod
    def load(cls, directory: Path, models: tuple[str, ...]) -> Self:
        for name in (SETTINGS_FILE, ARRAYS_FILE):
            if not (directory / name).exists():
                raise InputError(f"{directory / name}: missing; not a saved '{cls.kind}' policy")
        body = json.loads((directory / SETTINGS_FILE).read_text())
        arrays = load_file(directory / ARRAYS_FILE)
        features = ContextFeatures(
            arrays["features.mean"],
            arrays["features.basis"],
            body["log_tokens_mean"],
            body["log_tokens_std"],
            body["token_scale"],
        )
        slope, intercept = body["platt"]
        network = ScoringNetwork(
            features=features,
            platt=(slope, intercept),
            length_std=body["length_std"],
            tau_usd=body["tau_usd"],
            **{name: arrays[name] for name in NETWORK_ARRAYS},
        )
        arms = Arms(models, **{name: arrays[f"arms.{name}"] for name in ARM_ARRAYS})
        if len(arms.identity) != len(models):
            raise InputError(
                f"{directory / ARRAYS_FILE}: {len(arms.identity)} identity vectors for {len(models)} models"
            )
        prefix = "decider."
        weights = {
            name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)
        }
        return cls(network, arms, FrozenSetPolicy(body["decider"], weights))
