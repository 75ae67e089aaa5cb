"""BaRP's network as plain PyTorch: what is trained on RLlib and served without it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

Head = Literal["mlp", "linear", "bilinear"]


@dataclass(frozen=True)
class NetworkShape:
    """Everything that fixes the parameters' shapes.

    Attributes:
        embedding_dim: length d of a prompt's vector.
        n_models: number K of models.
        head: decision head g on [e; phi(w)].
        hidden: widths of the MLP head's hidden layers, unused by the others.
        preference_dim: width of phi(w).
        dropout: share of hidden units dropped in training.
        input_std: standard deviation to which the embedding's entries are scaled; the smaller, the smoother
            the learned function.
    """

    embedding_dim: int
    n_models: int
    head: Head = "mlp"
    hidden: tuple[int, ...] = (256,)
    preference_dim: int = 32
    dropout: float = 0.0
    input_std: float = 0.1

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Self:
        """Read the form written by :meth:`to_dict`."""
        return cls(**{**body, "hidden": tuple(body["hidden"])})


class BarpNetwork(nn.Module):
    """Logits ``g([e; phi(w)])`` over K models (BaRP, arXiv 2510.07429, policy).

    The frozen encoder's vector is standardised with the training prompts' mean and deviation, which travel with
    the weights, so that learning rates mean the same for every encoder.
    """

    embedding_mean: Tensor
    embedding_scale: Tensor

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        d, p, k = shape.embedding_dim, shape.preference_dim, shape.n_models
        self.register_buffer("embedding_mean", torch.zeros(d))
        self.register_buffer("embedding_scale", torch.ones(d))
        self.preference_encoder = nn.Sequential(nn.Linear(2, p), nn.SiLU(), nn.Linear(p, p), nn.SiLU())
        self.dropout = nn.Dropout(shape.dropout)
        # Bilinear: one (d, p) form per model, logit_k = e^T W_k phi + b_k^T phi.
        dense = [d + p, *(shape.hidden if shape.head == "mlp" else ()), k]
        widths = [d, k * p] if shape.head == "bilinear" else dense
        first, *rest = (nn.Linear(a, b) for a, b in pairwise(widths))
        self.first, self.rest = first, nn.ModuleList(rest)

    @classmethod
    def of_state(cls, shape: NetworkShape, state: dict[str, Tensor]) -> Self:
        """Return a network with given weights, for inference; no random number is drawn."""
        with torch.device("meta"):
            network = cls(shape)
        network.load_state_dict(state, assign=True)
        return network.eval().requires_grad_(False)

    def standardise(self, embeddings: Tensor) -> None:
        """Take mean and deviation from training embeddings, shape (n, d)."""
        self.embedding_mean.copy_(embeddings.mean(dim=0))
        deviation = embeddings.std(dim=0, correction=0).clamp_min(1e-6)
        self.embedding_scale.copy_(deviation / self.shape.input_std)

    def _scaled(self, embeddings: Tensor) -> Tensor:
        return (embeddings - self.embedding_mean) / self.embedding_scale

    def forward(self, embeddings: Tensor, preferences: Tensor) -> Tensor:
        """Return logits, shape (n, K), of embeddings (n, d) under preferences (n, 2)."""
        e, phi = self._scaled(embeddings), self.preference_encoder(preferences)
        if self.shape.head == "bilinear":
            form = self.first(e).view(len(e), self.shape.n_models, self.shape.preference_dim)
            return torch.einsum("nkp,np->nk", form, self.dropout(phi))
        return self._tail(self.first(torch.cat([e, phi], dim=1)))

    def dial_logits(self, embeddings: Tensor, preferences: Tensor) -> Tensor:
        """Return logits, shape (n, m, K), of every embedding (n, d) under every preference (m, 2).

        The embedding's part of the first layer is computed once for all preferences.
        """
        e, phi = self._scaled(embeddings), self.preference_encoder(preferences)
        if self.shape.head == "bilinear":
            form = self.first(e).view(len(e), self.shape.n_models, self.shape.preference_dim)
            return torch.einsum("nkp,mp->nmk", form, self.dropout(phi))
        d = self.shape.embedding_dim
        from_prompt = nn.functional.linear(e, self.first.weight[:, :d])
        from_preference = nn.functional.linear(phi, self.first.weight[:, d:], self.first.bias)
        return self._tail(from_prompt[:, None, :] + from_preference[None, :, :])

    def _tail(self, hidden: Tensor) -> Tensor:
        for layer in self.rest:
            hidden = layer(self.dropout(nn.functional.silu(hidden)))
        return hidden
