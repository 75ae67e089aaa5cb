"""The set policy's logits in numpy, from the weights that PyTorch trained: a decision imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from policies.llm_bandit.set_network import SetPolicyNetwork

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

LAYER_NORM_EPS = 1e-5
MASKED_SCORE = np.float32(-1e9)


@dataclass(frozen=True)
class FrozenSetPolicy:
    """What :class:`policies.llm_bandit.set_network.SetPolicyNetwork` computes, without its value function.

    Attributes:
        shape: the fields of :class:`policies.llm_bandit.set_network.SetShape`.
        weights: parameters by the names that PyTorch gives them, float32.
    """

    shape: dict[str, Any]
    weights: dict[str, Float32Array]

    @classmethod
    def of(cls, network: SetPolicyNetwork) -> Self:
        """Freeze the current weights of a trained network."""
        state = {name: value.detach().cpu().numpy().copy() for name, value in network.named_parameters()}
        # The value function served training alone.
        kept = {name: value for name, value in state.items() if not name.startswith("value_pool.")}
        return cls(network.shape.to_dict(), kept)

    def logits(
        self, inputs: Float32Array, arms: Float32Array, mask: BoolArray, preferences: Float32Array
    ) -> Float32Array:
        """Return logits, shape (n, N); meaningless where ``mask`` is False.

        Args:
            inputs: shape (n, p), the prompt's features.
            arms: shape (n, N, m + 2), columns identity vector, cost term, predicted score.
            mask: shape (n, N), the candidates.
            preferences: shape (n, 2), columns (w_quality, w_cost), on the simplex.
        """
        mask_bias = None if mask.all() else np.where(mask, np.float32(0.0), MASKED_SCORE)
        tokens = self._linear("embed", arms)
        for i in range(self.shape["blocks"]):
            tokens = self._block(f"blocks.{i}", tokens, mask_bias)
        source = self._linear("policy_pool.from_prompt", inputs)
        source += preferences @ self.weights["policy_pool.from_preference.weight"].T
        width = source.shape[1] // 2
        pooled = self._attend("policy_pool.attention", source[:, None, :width], tokens, mask_bias)[:, 0]
        h = self._linear("policy_pool.out", _relu(pooled + source[:, width:]))
        if self.shape["head"] == "identity":
            return (arms[..., : h.shape[1]] @ h[:, :, None])[..., 0]
        scores, cost_terms = _normalised(arms[..., -1], arms[..., -2], mask, self.shape["normalisation"])
        value = preferences[:, :1] * scores - preferences[:, 1:] * cost_terms
        return (arms @ h[:, :, None])[..., 0] + np.exp(self.weights["log_sharpness"]) * value

    def _linear(self, name: str, x: Float32Array) -> Float32Array:
        weight = self.weights[f"{name}.weight"]
        # One matrix product over all rows, rather than one per prompt, is what BLAS is fast at.
        flat = x.reshape(-1, x.shape[-1]) @ weight.T
        flat += self.weights[f"{name}.bias"]
        return flat.reshape(*x.shape[:-1], len(weight))

    def _block(self, name: str, tokens: Float32Array, mask_bias: Float32Array | None) -> Float32Array:
        inner = self._norm(f"{name}.norm", tokens)
        query = self._linear(f"{name}.query", inner)
        tokens = tokens + self._attend(f"{name}.attention", query, inner, mask_bias)
        wide = _relu(self._linear(f"{name}.wide", self._norm(f"{name}.norm2", tokens)))
        return tokens + self._linear(f"{name}.narrow", wide)

    def _norm(self, name: str, x: Float32Array) -> Float32Array:
        # Products with a constant vector are several times faster than `mean` on small arrays.
        average = np.full(x.shape[-1], 1.0 / x.shape[-1], dtype=np.float32)
        centred = x - (x @ average)[..., None]
        variance = np.square(centred) @ average
        centred /= np.sqrt(variance + np.float32(LAYER_NORM_EPS))[..., None]
        centred *= self.weights[f"{name}.weight"]
        centred += self.weights[f"{name}.bias"]
        return centred

    def _attend(
        self, name: str, query: Float32Array, tokens: Float32Array, mask_bias: Float32Array | None
    ) -> Float32Array:
        n, q, d = query.shape
        heads = self.shape["heads"]
        key_value = self._linear(f"{name}.key_value", tokens).reshape(n, -1, 2, heads, d // heads)
        key = key_value[:, :, 0].transpose(0, 2, 3, 1)
        value = key_value[:, :, 1].transpose(0, 2, 1, 3)
        scores = query.reshape(n, q, heads, -1).transpose(0, 2, 1, 3) @ key
        scores *= np.float32(1.0 / math.sqrt(d // heads))
        if mask_bias is not None:
            scores += mask_bias[:, None, None, :]
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed: Float32Array = (
            (scores @ value).transpose(0, 2, 1, 3).reshape(n, q, d).astype(np.float32, copy=False)
        )
        return self._linear(f"{name}.out", mixed)


def _relu(x: Float32Array) -> Float32Array:
    return np.maximum(x, np.float32(0.0))


def _normalised(
    scores: Float32Array, cost_terms: Float32Array, mask: BoolArray, kind: str
) -> tuple[Float32Array, Float32Array]:
    if kind == "tau":
        return scores, cost_terms
    best = np.maximum(np.where(mask, scores, 0.0).max(axis=1, keepdims=True), 1e-6)
    dearest = np.maximum(np.where(mask, cost_terms, 0.0).max(axis=1, keepdims=True), 1e-6)
    return scores / best, cost_terms / dearest
