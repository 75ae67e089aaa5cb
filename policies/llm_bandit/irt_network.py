"""The neural item response model: what is trained of stage 1, in plain PyTorch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class IrtShape:
    """Everything that fixes the parameters' shapes.

    Attributes:
        inputs: width p of the prompt's features.
        identity_dim: length m of an identity vector.
        members: networks whose logits are averaged; they share the identity vectors.
        hidden: width of each member's hidden layer.
        dropout: share of hidden units dropped in training.
        input_dropout: share of inputs dropped in training.
    """

    inputs: int
    identity_dim: int = 24
    members: int = 4
    hidden: int = 128
    dropout: float = 0.3
    input_dropout: float = 0.1

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return asdict(self)


class IrtOutputs(NamedTuple):
    """Per member: score logits f, comparator values g and standardised log output costs, (members, n, K)."""

    score: Tensor
    comparator: Tensor
    length: Tensor


class IrtNetwork(nn.Module):
    """Scoring network f, comparator g and answer length on one backbone ``h = GELU(W x + c)``.

    ``f(x, I) = d(h) + a(h) . I`` with a loading ``a(h) = beta + h A`` and a difficulty ``d(h)``, the item response
    model of LLM Bandit (arXiv 2502.02743, stage 1) with both made by a network from the prompt. ``g`` scales the
    same loading and adds its own; its difficulty would cancel between two models and is left out. Every output is
    linear in the identity vector, so that fitting the vector of a new model is a concave problem with one answer.
    """

    def __init__(self, shape: IrtShape) -> None:
        super().__init__()
        self.shape = shape
        s, p, h, m = shape.members, shape.inputs, shape.hidden, shape.identity_dim
        self.trunk = nn.Parameter(torch.randn(s, p, h) / math.sqrt(3 * p))
        self.trunk_bias = nn.Parameter(torch.zeros(s, 1, h))
        self.difficulty = nn.Parameter(torch.randn(s, h, 2) / math.sqrt(3 * h))
        self.loading = nn.Parameter(0.02 * torch.randn(s, h, 3 * m))
        self.loading_bias = nn.Parameter(torch.randn(s, 1, 3 * m) / math.sqrt(m))
        self.offset = nn.Parameter(torch.zeros(s, 1, 2))
        self.comparator_gain = nn.Parameter(torch.zeros(()))
        with torch.no_grad():
            self.loading[..., 2 * m :] = 0.0
            self.loading_bias[..., m:] = 0.0

    def forward(self, inputs: Tensor, identities: Tensor) -> IrtOutputs:
        """Return all outputs of prompts (members, n, p) or (n, p) for identity vectors (members, K, m) or (K, m)."""
        s, m = self.shape.members, self.shape.identity_dim
        x = functional.dropout(inputs.expand(s, *inputs.shape[-2:]), self.shape.input_dropout, self.training)
        hidden = functional.gelu(torch.baddbmm(self.trunk_bias, x, self.trunk))
        hidden = functional.dropout(hidden, self.shape.dropout, self.training)
        difficulty = torch.baddbmm(self.offset, hidden, self.difficulty)
        loading = torch.baddbmm(self.loading_bias, hidden, self.loading)
        columns = identities.expand(s, *identities.shape[-2:]).transpose(1, 2)
        ability = torch.bmm(loading[..., :m], columns)
        length = difficulty[..., 1:] + torch.bmm(loading[..., m : 2 * m], columns)
        comparator = self.comparator_gain.exp() * ability + torch.bmm(loading[..., 2 * m :], columns)
        return IrtOutputs(difficulty[..., :1] + ability, comparator, length)

    def parameter_groups(self, decay: float, loading_decay: float) -> list[dict[str, Any]]:
        """Return the optimiser's groups: backbone, loadings (decayed more), and undecayed biases."""
        return [
            {"params": [self.trunk, self.difficulty], "weight_decay": decay},
            {"params": [self.loading], "weight_decay": loading_decay},
            {
                "params": [self.loading_bias, self.offset, self.trunk_bias, self.comparator_gain],
                "weight_decay": 0.0,
            },
        ]


class IdentityPosterior(nn.Module):
    """``q(I_k) = N(mu_k, diag sigma_k^2)`` of K models with the prior N(0, 1)."""

    def __init__(self, n_models: int, identity_dim: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(0.5 * torch.randn(n_models, identity_dim))
        self.log_std = nn.Parameter(torch.full((n_models, identity_dim), -2.0))

    def sample(self, members: int) -> Tensor:
        """Return one reparameterised draw for each member, shape (members, K, m)."""
        return self.mean + self.log_std.exp() * torch.randn(members, *self.mean.shape)

    def divergence(self) -> Tensor:
        """Return the Kullback-Leibler divergence to the prior, summed over models and dimensions, in nats."""
        variance = (2.0 * self.log_std).exp()
        return 0.5 * (variance + self.mean**2 - 1.0 - 2.0 * self.log_std).sum()
