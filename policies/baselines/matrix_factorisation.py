"""Score predictor: a bilinear form of a model's vector and the projected prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit
from torch import Tensor, nn

from policies.base import FloatArray
from policies.baselines.networks import train_on_scores, weights
from policies.baselines.value import Matrix, ValuePolicy, fit_cost_weights, linear
from policies.datasets import OutcomeMatrix

RANK = 32
EPOCHS = 40
WEIGHT_DECAY = 0.1
MEMBERS = 2


@dataclass(frozen=True)
class MatrixFactorisationPolicy(ValuePolicy):
    """``sigmoid(v_k . (P x + p) + b_k)``, after RouteLLM (arXiv 2406.18665, section 4.2).

    RouteLLM fits the form to who wins of two models; here it is fitted to every model's own score, so that it
    serves more than two models and a preference.

    Attributes:
        projection: shape (members, rank, d); ``offset`` (members, rank).
        vectors: shape (members, n_models, rank); ``bias`` (members, n_models).
        cost_weights: shape (d + 1, n_models).
    """

    kind: ClassVar[str] = "matrix_factorisation"
    projection: npt.NDArray[np.float32]
    offset: npt.NDArray[np.float32]
    vectors: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    cost_weights: Matrix

    @classmethod
    def fit(
        cls,
        data: OutcomeMatrix,
        tau_usd: float,
        *,
        rank: int = RANK,
        epochs: int = EPOCHS,
        weight_decay: float = WEIGHT_DECAY,
        members: int = MEMBERS,
    ) -> Self:
        """Fit to completely observed prompts; ``members`` factorisations are averaged, ``tau_usd`` is in USD."""
        d, k = data.embeddings.shape[1], len(data.pool.models)
        nets = [
            train_on_scores(
                lambda: _Factors(d, rank, k), data, epochs=epochs, weight_decay=weight_decay, seed=seed
            )
            for seed in range(members)
        ]
        names = ("project.weight", "project.bias", "vectors.weight", "vectors.bias")
        projection, offset, vectors, bias = (weights(nets, name) for name in names)
        cost = fit_cost_weights(data, tau_usd)
        return cls(data.pool.models, projection, offset, vectors, bias, cost)

    def predict(self, embeddings: FloatArray, prompt_tokens: FloatArray | None) -> tuple[Matrix, Matrix]:
        x = np.asarray(embeddings, dtype=np.float32)
        total = np.zeros((len(x), len(self.models)))
        for projection, offset, vectors, bias in zip(self.projection, self.offset, self.vectors, self.bias):
            total += expit((x @ projection.T + offset) @ vectors.T + bias)
        return total / len(self.vectors), linear(embeddings, self.cost_weights)


class _Factors(nn.Module):
    def __init__(self, d: int, rank: int, n_models: int) -> None:
        super().__init__()
        self.project = nn.Linear(d, rank)
        self.vectors = nn.Linear(rank, n_models)
        # Vectors of unit norm have entries near d ** -0.5: without this scale the projection starts near 0.
        with torch.no_grad():
            self.project.weight.normal_()

    def forward(self, x: Tensor) -> Tensor:
        return self.vectors(self.project(x))
