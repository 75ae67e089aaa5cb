"""The trained outcome model as a router: plain arrays, two small matrix products a decision, no Ray, no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file
from scipy.special import expit, ndtr

from policies.base import FloatArray, Judgement
from policies.errors import InputError
from policies.outcome_model.cost_term import expected_cost_term
from policies.outcome_model.features import ContextFeatures
from policies.outcome_model.row import RowModel
from policies.outcome_model.topics import TopicScores, fitted_share
from policies.predicting import PredictingPolicy

CHUNK_ROWS = 8192
"""Rows in one pass: bounds the memory of a large batch."""


class ExpectedOutcomes(NamedTuple):
    """Predictions of one batch.

    Attributes:
        scores: shape (n, K), in [0, 1].
        cost_terms: shape (n, K), expected ``min(c / tau, 1)``.
        member_scores: shape (members, n, K); their spread is the model's uncertainty.
    """

    scores: npt.NDArray[np.float64]
    cost_terms: npt.NDArray[np.float64]
    member_scores: npt.NDArray[np.float64]


@dataclass(frozen=True)
class OutcomeModelPolicy(PredictingPolicy):
    """``argmax_k  w_quality q_k(x) - w_cost E[min(c_k(x) / tau, 1)]`` with learned q and c.

    The chosen model's expected cost term never rises with ``w_cost``: for each prompt the value is the upper
    envelope of lines in the preference, so raising ``w_cost`` can only move to a line with a lower cost term.

    Attributes:
        models: names in column order.
        features: from embedding and length to inputs.
        trunk: shape (members, p, h); trunk_bias (members, 1, h).
        head: shape (members, h, 2 K); head_bias (members, 1, 2 K).
        log_cost_mean: shape (K,), mean log output cost in training, natural logarithm of USD.
        log_cost_std: deviation to which log output costs were standardised.
        sigma: shape (K,), residual deviation of log output costs.
        recalibration: shape (K,), mean observed over mean predicted cost term.
        input_price_per_token_usd: shape (K,).
        tau_usd: cost scale of the reward.
        topics: mean scores per topic, blended into every member's scores; None where too few outcomes are known.
    """

    kind: ClassVar[str] = "outcome_model"
    models: tuple[str, ...]
    features: ContextFeatures
    trunk: npt.NDArray[np.float32]
    trunk_bias: npt.NDArray[np.float32]
    head: npt.NDArray[np.float32]
    head_bias: npt.NDArray[np.float32]
    log_cost_mean: npt.NDArray[np.float64]
    log_cost_std: float
    sigma: npt.NDArray[np.float64]
    recalibration: npt.NDArray[np.float64]
    input_price_per_token_usd: npt.NDArray[np.float64]
    tau_usd: float
    topics: TopicScores | None = None

    def named(self, models: tuple[str, ...]) -> Self:
        """Return the router with its columns named."""
        if len(models) != len(self.models):
            raise ValueError(f"{len(models)} names for {len(self.models)} models")
        return replace(self, models=models)

    def expected_outcomes(
        self, embeddings: FloatArray, prompt_tokens: FloatArray | None = None
    ) -> ExpectedOutcomes:
        """Return expected scores and cost terms of every model.

        Args:
            embeddings: shape (n, d).
            prompt_tokens: shape (n,); None stands for the training mean.
        """
        n = len(embeddings)
        tokens = np.full(n, self.features.mean_tokens) if prompt_tokens is None else np.asarray(prompt_tokens)
        chunks = [
            self._predict(embeddings[i : i + CHUNK_ROWS], tokens[i : i + CHUNK_ROWS])
            for i in range(0, max(n, 1), CHUNK_ROWS)
        ]
        if len(chunks) == 1:
            return chunks[0]
        return ExpectedOutcomes(
            np.concatenate([c.scores for c in chunks]),
            np.concatenate([c.cost_terms for c in chunks]),
            np.concatenate([c.member_scores for c in chunks], axis=1),
        )

    def with_fitted_share(
        self, embeddings: FloatArray, prompt_tokens: FloatArray, scores: FloatArray
    ) -> Self:
        """Return the router whose share of topics fits prompts that were not trained on.

        Args:
            embeddings: shape (n, d).
            prompt_tokens: shape (n,).
            scores: shape (n, K); NaN where not observed.
        """
        if self.topics is None or len(embeddings) == 0:
            return self
        network = replace(self, topics=None).expected_outcomes(embeddings, prompt_tokens).scores
        topical = self.topics.predict(self.features.project(embeddings))
        share = fitted_share(network, topical, scores, self.topics.share)
        return replace(self, topics=replace(self.topics, share=share))

    def outputs(self, embeddings: FloatArray, prompt_tokens: FloatArray) -> npt.NDArray[np.floating]:
        """Return the members' score logits and standardised log output costs, shape (members, n, 2 K)."""
        return self._outputs(self.features.transform(embeddings, prompt_tokens))

    def _outputs(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        hidden = inputs @ self.trunk + self.trunk_bias
        hidden *= ndtr(hidden)  # the exact GELU, x Phi(x)
        return hidden @ self.head + self.head_bias

    def log_output_costs(self, outputs: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return expected log costs beyond the prompt's, shape (n, K), log USD, of :meth:`outputs`."""
        return self.log_cost_mean + self.log_cost_std * outputs[..., len(self.models) :].mean(axis=0)

    def _predict(self, embeddings: FloatArray, tokens: FloatArray) -> ExpectedOutcomes:
        inputs = self.features.transform(embeddings, tokens)
        outputs = self._outputs(inputs)
        member_scores = expit(outputs[..., : len(self.models)].astype(np.float64))
        if self.topics is not None:
            member_scores += self.topics.share * (self.topics.predict(inputs[:, :-1]) - member_scores)
        log_cost = self.log_output_costs(outputs)
        prompt_cost = tokens[:, None] * self.input_price_per_token_usd
        cost_terms = expected_cost_term(log_cost, self.sigma, prompt_cost, self.tau_usd)
        return ExpectedOutcomes(
            member_scores.mean(axis=0), np.minimum(cost_terms * self.recalibration, 1.0), member_scores
        )

    def predict(
        self, embeddings: FloatArray, prompt_tokens: FloatArray | None
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        n, d = len(embeddings), len(self.features.mean)
        if embeddings.shape != (n, d):
            raise ValueError(f"embeddings have shape {embeddings.shape}, expected (n, {d})")
        expected = self.expected_outcomes(embeddings, prompt_tokens)
        return expected.scores, expected.cost_terms

    @cached_property
    def row_model(self) -> RowModel:
        """The same function for one prompt at a time."""
        return RowModel(self)

    def judge(
        self, embedding: FloatArray, preference: tuple[float, float], prompt_tokens: float
    ) -> Judgement:
        return self.row_model.judge(embedding, preference, prompt_tokens)

    def save(self, directory: Path) -> None:
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        arrays |= {"mean": self.features.mean, "basis": np.ascontiguousarray(self.features.basis)}
        numbers = {
            "log_cost_std": self.log_cost_std,
            "tau_usd": self.tau_usd,
            "log_tokens_mean": self.features.log_tokens_mean,
            "log_tokens_std": self.features.log_tokens_std,
            "token_scale": self.features.token_scale,
        }
        if self.topics is not None:
            arrays |= {"topic_centroids": self.topics.centroids, "topic_scores": self.topics.scores}
            numbers["topic_share"] = self.topics.share
        save_file(arrays, directory / "outcome_model.safetensors")
        (directory / "outcome_model.json").write_text(json.dumps(numbers, sort_keys=True))

    @classmethod
    def load(cls, directory: Path, models: tuple[str, ...]) -> Self:
        for name in ("outcome_model.json", "outcome_model.safetensors"):
            if not (directory / name).exists():
                raise InputError(f"{directory / name}: missing; not a saved '{cls.kind}' policy")
        numbers = json.loads((directory / "outcome_model.json").read_text())
        arrays = load_file(directory / "outcome_model.safetensors")
        features = ContextFeatures(
            arrays["mean"],
            arrays["basis"],
            numbers["log_tokens_mean"],
            numbers["log_tokens_std"],
            numbers["token_scale"],
        )
        return cls(
            models=models,
            features=features,
            log_cost_std=numbers["log_cost_std"],
            tau_usd=numbers["tau_usd"],
            topics=TopicScores(arrays["topic_centroids"], arrays["topic_scores"], numbers["topic_share"])
            if "topic_share" in numbers
            else None,
            **{name: arrays[name] for name in _ARRAYS},
        )


_ARRAYS = tuple(
    f.name
    for f in fields(OutcomeModelPolicy)
    if f.name not in ("models", "features", "log_cost_std", "tau_usd", "topics")
)
