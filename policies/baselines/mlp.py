"""Score predictor: an average of small networks on the embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy.special import expit, ndtr
from torch import nn

from policies.base import FloatArray
from policies.baselines.networks import train_on_scores, weights
from policies.baselines.value import Matrix, ValuePolicy, fit_cost_weights, linear
from policies.datasets import OutcomeMatrix

HIDDEN = 128
DROPOUT = 0.3
EPOCHS = 30
WEIGHT_DECAY = 1e-3
MEMBERS = 5


@dataclass(frozen=True)
class MlpPolicy(ValuePolicy):
    """One hidden layer, cross-entropy on scores, averaged over seeds.

    Attributes:
        w1: shape (members, hidden, d); ``b1`` (members, hidden).
        w2: shape (members, n_models, hidden); ``b2`` (members, n_models).
        cost_weights: shape (d + 1, n_models).
    """

    kind: ClassVar[str] = "mlp"
    w1: npt.NDArray[np.float32]
    b1: npt.NDArray[np.float32]
    w2: npt.NDArray[np.float32]
    b2: npt.NDArray[np.float32]
    cost_weights: Matrix

    @classmethod
    def fit(
        cls,
        data: OutcomeMatrix,
        tau_usd: float,
        *,
        hidden: int = HIDDEN,
        dropout: float = DROPOUT,
        epochs: int = EPOCHS,
        members: int = MEMBERS,
    ) -> Self:
        """Fit to completely observed prompts; ``members`` networks are averaged, ``tau_usd`` is in USD."""
        d, k = data.embeddings.shape[1], len(data.pool.models)

        def build() -> nn.Module:
            return nn.Sequential(nn.Linear(d, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, k))

        nets = [
            train_on_scores(build, data, epochs=epochs, weight_decay=WEIGHT_DECAY, seed=seed)
            for seed in range(members)
        ]
        w1, b1, w2, b2 = (weights(nets, name) for name in ("0.weight", "0.bias", "3.weight", "3.bias"))
        return cls(data.pool.models, w1, b1, w2, b2, fit_cost_weights(data, tau_usd))

    def predict(self, embeddings: FloatArray, prompt_tokens: FloatArray | None) -> tuple[Matrix, Matrix]:
        x = np.asarray(embeddings, dtype=np.float32)
        total = np.zeros((len(x), len(self.models)))
        for w1, b1, w2, b2 in zip(self.w1, self.b1, self.w2, self.b2):
            hidden = x @ w1.T + b1
            total += expit((hidden * ndtr(hidden)) @ w2.T + b2)  # the exact GELU, x Phi(x)
        return total / len(self.w1), linear(embeddings, self.cost_weights)
