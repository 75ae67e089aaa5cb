"""Frozen item response model and identity vectors as plain arrays: predictions without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from scipy.special import expit, ndtr

from policies.base import FloatArray
from policies.outcome_model.cost_term import expected_cost_term
from policies.outcome_model.features import ContextFeatures

Float64Array = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]


class Loadings(NamedTuple):
    """What a prompt asks of a model, averaged over members: the outputs are ``offset + loading . I``.

    Attributes:
        score: shape (n, m); score_offset: shape (n,).
        length: shape (n, m); length_offset: shape (n,).
    """

    score: Float32Array
    score_offset: Float32Array
    length: Float32Array
    length_offset: Float32Array


class Predictions(NamedTuple):
    """Predicted outcomes of a batch.

    Attributes:
        logits: shape (n, K), score logits before calibration.
        scores: shape (n, K), calibrated, in [0, 1].
        cost_terms: shape (n, K), expected ``min(c / tau, 1)``.
    """

    logits: Float64Array
    scores: Float64Array
    cost_terms: Float64Array


@dataclass(frozen=True)
class ScoringNetwork:
    """The scoring and length networks of :class:`policies.llm_bandit.irt_network.IrtNetwork`, frozen.

    Attributes:
        features: from embedding and length to inputs.
        trunk: shape (members, p, h); trunk_bias (members, 1, h).
        difficulty: shape (members, h, 2); offset (members, 1, 2).
        loading: shape (members, h, 2 m), of score and length; loading_bias (members, 1, 2 m).
        platt: slope and intercept of the calibration ``sigmoid(a logit + b)``.
        length_std: deviation to which log output costs were standardised.
        tau_usd: cost scale of the reward.
    """

    features: ContextFeatures
    trunk: Float32Array
    trunk_bias: Float32Array
    difficulty: Float32Array
    offset: Float32Array
    loading: Float32Array
    loading_bias: Float32Array
    platt: tuple[float, float]
    length_std: float
    tau_usd: float

    @property
    def identity_dim(self) -> int:
        """Length m of an identity vector."""
        return self.loading.shape[2] // 2

    def inputs(self, embeddings: FloatArray, prompt_tokens: FloatArray) -> Float32Array:
        """Return the network's inputs, shape (n, p)."""
        return self.features.transform(embeddings, prompt_tokens)

    def loadings(self, inputs: Float32Array) -> Loadings:
        """Return what each prompt, shape (n, p), asks of a model."""
        trunk, trunk_bias, heads, heads_bias = self._flat
        hidden = inputs @ trunk
        hidden += trunk_bias
        hidden *= ndtr(hidden)  # the exact GELU, x Phi(x)
        out = _single(hidden @ heads + heads_bias)
        m = self.identity_dim
        return Loadings(out[:, :m], out[:, 2 * m], out[:, m : 2 * m], out[:, 2 * m + 1])

    @cached_property
    def _flat(self) -> tuple[Float32Array, Float32Array, Float32Array, Float32Array]:
        """The members side by side: their mean is linear in all hidden units, so two products make it."""
        members, p, h = self.trunk.shape
        heads = np.concatenate([self.loading, self.difficulty], axis=2).reshape(members * h, -1) / members
        bias = np.concatenate([self.loading_bias, self.offset], axis=2).mean(axis=(0, 1))
        trunk = self.trunk.transpose(1, 0, 2).reshape(p, members * h)
        return _single(trunk), _single(self.trunk_bias.reshape(-1)), _single(heads), _single(bias)


def _single(values: npt.NDArray[np.floating]) -> Float32Array:
    return np.ascontiguousarray(values, dtype=np.float32)


@dataclass(frozen=True)
class Arms:
    """What is known of each model; one row a model, so that a new one is one more row.

    Attributes:
        models: names, K of them.
        identity: shape (K, m), posterior means.
        identity_std: shape (K, m), posterior standard deviations.
        log_cost_mean: shape (K,), mean log output cost, natural logarithm of USD.
        sigma: shape (K,), residual deviation of log output costs.
        recalibration: shape (K,), mean observed over mean predicted cost term.
        input_price_per_token_usd: shape (K,).
    """

    models: tuple[str, ...]
    identity: Float32Array
    identity_std: Float32Array
    log_cost_mean: Float64Array
    sigma: Float64Array
    recalibration: Float64Array
    input_price_per_token_usd: Float64Array

    def __len__(self) -> int:
        return len(self.models)

    def take(self, columns: npt.ArrayLike) -> Self:
        """Return some of the models, by mask or positions, in that order."""
        i = np.arange(len(self))[np.asarray(columns)]
        arrays = {name: getattr(self, name)[i] for name in ARM_ARRAYS}
        return replace(self, models=tuple(self.models[j] for j in i), **arrays)

    def with_arms(self, further: Arms) -> Self:
        """Return these models followed by further ones.

        Raises:
            ValueError: a model is in both.
        """
        twice = sorted(set(self.models) & set(further.models))
        if twice:
            raise ValueError(f"model '{twice[0]}' already has an identity vector")
        arrays = {name: np.concatenate([getattr(self, name), getattr(further, name)]) for name in ARM_ARRAYS}
        return replace(self, models=self.models + further.models, **arrays)


ARM_ARRAYS = (
    "identity",
    "identity_std",
    "log_cost_mean",
    "sigma",
    "recalibration",
    "input_price_per_token_usd",
)
"""The fields of :class:`Arms` with one row a model."""


def logits(loadings: Loadings, arms: Arms) -> Float64Array:
    """Return uncalibrated score logits, shape (n, K)."""
    return (loadings.score @ arms.identity.T + loadings.score_offset[:, None]).astype(np.float64)


def log_output_cost(network: ScoringNetwork, loadings: Loadings, arms: Arms) -> Float64Array:
    """Return expected log costs beyond the prompt's, shape (n, K), log USD."""
    standardised = loadings.length @ arms.identity.T + loadings.length_offset[:, None]
    return arms.log_cost_mean + network.length_std * standardised.astype(np.float64)


def expected_output_cost_usd(network: ScoringNetwork, loadings: Loadings, arms: Arms) -> Float64Array:
    """Return the expected cost of the answers alone, shape (n, K), USD: the mean of a lognormal, not capped."""
    return arms.recalibration * np.exp(log_output_cost(network, loadings, arms) + 0.5 * arms.sigma**2)


def predict(
    network: ScoringNetwork, arms: Arms, inputs: Float32Array, prompt_tokens: FloatArray
) -> Predictions:
    """Return every model's predicted outcome for inputs (n, p) of prompts with ``prompt_tokens``, shape (n,)."""
    return predict_from(network, arms, network.loadings(inputs), prompt_tokens)


def predict_from(
    network: ScoringNetwork, arms: Arms, loadings: Loadings, prompt_tokens: FloatArray
) -> Predictions:
    """Return what :func:`predict` does, from loadings of n prompts with ``prompt_tokens``, shape (n,)."""
    score_logits = logits(loadings, arms)
    slope, intercept = network.platt
    prompt_cost = np.asarray(prompt_tokens)[:, None] * arms.input_price_per_token_usd
    expected = expected_cost_term(
        log_output_cost(network, loadings, arms), arms.sigma, prompt_cost, network.tau_usd
    )
    return Predictions(
        score_logits,
        expit(slope * score_logits + intercept),
        np.minimum(expected * arms.recalibration, 1.0),
    )


def logit_std(network: ScoringNetwork, loadings: Loadings, arms: Arms) -> Float64Array:
    """Return the standard deviation of each calibrated logit under the posterior of the vectors, shape (n, K).

    The logit is linear in the vector and the posterior diagonal, so this is exact.
    """
    variance = loadings.score.astype(np.float64) ** 2 @ arms.identity_std.astype(np.float64).T ** 2
    return abs(network.platt[0]) * np.sqrt(variance)
