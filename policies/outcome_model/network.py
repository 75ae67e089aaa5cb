"""The ensemble that predicts, for every model at once, the score and the length of its answer."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class EnsembleShape:
    """Everything that fixes the parameters' shapes.

    Attributes:
        inputs: width of the context features.
        n_models: number K of models.
        members: networks in the ensemble, trained as one batched product.
        hidden: width of each member's hidden layer.
        dropout: share of hidden units dropped in training.
        input_dropout: share of inputs dropped in training.
    """

    inputs: int
    n_models: int
    members: int = 4
    hidden: int = 64
    dropout: float = 0.3
    input_dropout: float = 0.1

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return asdict(self)


class OutcomeEnsemble(nn.Module):
    """Two outputs per model from a shared hidden layer ``h = GELU(W x + c)``.

    Score logit: ``b_m + exp(g_m) u.h + v_m.h``; standardised log output cost: ``b'_m + u'.h + v'_m.h``. The shared
    directions ``u`` (how hard, how long) pool over models, as the difficulty of item response theory does; the
    interactions ``v_m`` start near 0 and are decayed more, so that a model seen on few prompts keeps to its mean.
    """

    def __init__(self, shape: EnsembleShape) -> None:
        super().__init__()
        self.shape = shape
        s, p, h, k = shape.members, shape.inputs, shape.hidden, shape.n_models
        self.trunk = nn.Parameter(torch.randn(s, p, h) / math.sqrt(3 * p))
        self.trunk_bias = nn.Parameter(torch.zeros(s, 1, h))
        self.shared = nn.Parameter(torch.randn(s, h, 2) / math.sqrt(3 * h))
        self.interaction = nn.Parameter(0.02 * torch.randn(s, h, 2 * k))
        self.log_gain = nn.Parameter(torch.zeros(s, 1, k))
        self.bias = nn.Parameter(torch.zeros(s, 1, 2 * k))

    def start_from(self, mean_scores: Tensor) -> None:
        """Set the score biases to the models' mean scores, shape (K,), strictly between 0 and 1."""
        with torch.no_grad():
            self.bias[..., : self.shape.n_models] = torch.logit(mean_scores)

    def head(self) -> Tensor:
        """Return shared directions and interactions as one matrix, shape (members, hidden, 2 K)."""
        k = self.shape.n_models
        score = self.interaction[..., :k] + self.shared[..., :1] * self.log_gain.exp()
        length = self.interaction[..., k:] + self.shared[..., 1:]
        return torch.cat([score, length], dim=-1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return score logits and standardised log output costs, shape (members, n, 2 K), of (members, n, p)."""
        x = functional.dropout(inputs, self.shape.input_dropout, self.training)
        hidden = functional.gelu(torch.baddbmm(self.trunk_bias, x, self.trunk))
        hidden = functional.dropout(hidden, self.shape.dropout, self.training)
        return torch.baddbmm(self.bias, hidden, self.head())

    def parameter_groups(self, decay: float, interaction_decay: float) -> list[dict[str, Any]]:
        """Return the optimiser's groups: trunk and shared, interactions, and undecayed biases."""
        return [
            {"params": [self.trunk, self.shared], "weight_decay": decay},
            {"params": [self.interaction, self.log_gain], "weight_decay": interaction_decay},
            {"params": [self.bias, self.trunk_bias], "weight_decay": 0.0},
        ]
