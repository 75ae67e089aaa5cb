"""The set policy and its value function in plain PyTorch: what is trained of stage 2."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Head = Literal["arm", "identity"]
Normalisation = Literal["tau", "set"]

MASKED_LOGIT = -1e9
"""Logit of padding: its probability is exactly 0 in float32, its gradient finite."""

FIRST_SHARPNESS = 20.0
"""Logit per unit of predicted reward before training: the softmax is then close to its best action."""

ARM_EXTRAS = 2
"""A candidate's token is its identity vector, then its cost term and its predicted score."""


@dataclass(frozen=True)
class SetShape:
    """Everything that fixes the parameters' shapes; the number of models is not among it.

    Attributes:
        inputs: width p of the prompt's features.
        identity_dim: length m of an identity vector.
        width: width d of the set transformer.
        heads: attention heads.
        blocks: self-attention blocks over the candidates.
        head: what the dot product is taken with: the whole token (identity, cost, predicted score), starting from
            the decision by predicted reward; or, as published, the identity vector alone.
        normalisation: see :func:`normalised`.
    """

    inputs: int
    identity_dim: int
    width: int = 32
    heads: int = 2
    blocks: int = 1
    head: Head = "arm"
    normalisation: Normalisation = "tau"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return asdict(self)


def normalised(
    scores: Tensor, cost_terms: Tensor, mask: Tensor, kind: Normalisation
) -> tuple[Tensor, Tensor]:
    """Return what the preference weighs, shapes (n, N): scores and costs as candidates of a set.

    ``set`` divides by the candidates' largest, ``s / max s`` and ``c / max c`` (LLM Bandit, arXiv 2502.02743, stage
    2), so that the dial means the same for dear and cheap sets; ``tau`` leaves the scale of the reward as it is.
    """
    if kind == "tau":
        return scores, cost_terms
    floor = 1e-6
    best = scores.masked_fill(~mask, 0.0).amax(dim=1, keepdim=True).clamp_min(floor)
    dearest = cost_terms.masked_fill(~mask, 0.0).amax(dim=1, keepdim=True).clamp_min(floor)
    return scores / best, cost_terms / dearest


class Attention(nn.Module):
    """Multi-head attention with a mask over the keys, on bare scaled dot products."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, query: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return shape (n, Q, d) of queries (n, Q, d) over tokens (n, N, d) where ``mask`` (n, N) is True."""
        n, q, d = query.shape
        size, depth = tokens.shape[1], d // self.heads
        key, value = self.key_value(tokens).view(n, size, 2, self.heads, depth).unbind(dim=2)
        # For sets this small two batched products beat the fused kernel.
        scores = query.view(n, q, self.heads, depth).transpose(1, 2) @ key.permute(0, 2, 3, 1)
        scores = (scores / math.sqrt(depth)).masked_fill(~mask[:, None, None, :], MASKED_LOGIT)
        mixed = scores.softmax(dim=-1) @ value.transpose(1, 2)
        return self.out(mixed.transpose(1, 2).reshape(n, q, d))


class SetBlock(nn.Module):
    """One transformer block over the candidates: no position, so that their order does not matter."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.attention = Attention(width, heads)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return tokens of the same shape (n, N, d)."""
        inner = self.norm(tokens)
        tokens = tokens + self.attention(self.query(inner), inner, mask)
        return tokens + self.narrow(functional.relu(self.wide(self.norm2(tokens))))


class PolicyPool(nn.Module):
    """h(x, C, w): attention of the prompt and the preference over the set, for several preferences at once."""

    def __init__(self, inputs: int, width: int, heads: int, outputs: int) -> None:
        super().__init__()
        # Query and direct path side by side; the prompt's part is shared by all of its preferences.
        self.from_prompt = nn.Linear(inputs, 2 * width)
        self.from_preference = nn.Linear(2, 2 * width, bias=False)
        self.attention = Attention(width, heads)
        self.out = nn.Linear(width, outputs)

    def forward(self, inputs: Tensor, preferences: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return h, shape (n, M, outputs), of inputs (n, p) and preferences (n, M, 2)."""
        source = self.from_prompt(inputs)[:, None, :] + self.from_preference(preferences)
        query, direct = source.chunk(2, dim=-1)
        return self.out(functional.relu(self.attention(query, tokens, mask) + direct))


class ValuePool(nn.Module):
    """V(x, C): attention of the prompt over the set; no preference enters."""

    def __init__(self, inputs: int, width: int, heads: int) -> None:
        super().__init__()
        self.from_prompt = nn.Linear(inputs, 2 * width)
        self.attention = Attention(width, heads)
        self.out = nn.Linear(width, 2)

    def forward(self, inputs: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return expected score and cost under the policy, shape (n, 2), of inputs (n, p)."""
        query, direct = self.from_prompt(inputs).chunk(2, dim=-1)
        return self.out(functional.relu(self.attention(query[:, None, :], tokens, mask)[:, 0] + direct))


class SetPolicyNetwork(nn.Module):
    """``pi(k | x, C, w) = softmax_k(token_k . h(x, C, w))`` and ``V(x, C)`` (arXiv 2502.02743, stage 2).

    h and V pool one set transformer's output; V sees no preference and returns a score and a cost, so that one
    value function serves every preference. The transformer sees none either: a set is encoded once and decided
    under many preferences, which is where the training's throughput comes from.
    """

    def __init__(self, shape: SetShape) -> None:
        super().__init__()
        self.shape = shape
        arm = shape.identity_dim + ARM_EXTRAS
        self.embed = nn.Linear(arm, shape.width)
        self.blocks = nn.ModuleList(SetBlock(shape.width, shape.heads) for _ in range(shape.blocks))
        outputs = arm if shape.head == "arm" else shape.identity_dim
        self.policy_pool = PolicyPool(shape.inputs, shape.width, shape.heads, outputs)
        self.value_pool = ValuePool(shape.inputs, shape.width, shape.heads)
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(FIRST_SHARPNESS)))
        if shape.head == "arm":
            with torch.no_grad():
                self.policy_pool.out.weight.zero_()
                self.policy_pool.out.bias.zero_()

    @classmethod
    def seeded(cls, shape: SetShape, seed: int) -> SetPolicyNetwork:
        """Return a network whose first weights depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(shape)

    def forward(
        self, inputs: Tensor, arms: Tensor, mask: Tensor, preferences: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return masked logits (n, M, N) and values (n, 2), columns (score, cost).

        Args:
            inputs: shape (n, p), the prompt's features.
            arms: shape (n, N, m + 2), columns identity vector, cost term, predicted score; finite in padding.
            mask: shape (n, N), True for a candidate; at least one a row.
            preferences: shape (n, M, 2), columns (w_quality, w_cost), on the simplex.
        """
        tokens = self.embed(arms)
        for block in self.blocks:
            tokens = block(tokens, mask)
        h = self.policy_pool(inputs, preferences, tokens, mask)
        if self.shape.head == "identity":
            logits = h @ arms[..., :-ARM_EXTRAS].transpose(1, 2)
        else:
            scores, cost_terms = normalised(arms[..., -1], arms[..., -2], mask, self.shape.normalisation)
            value = preferences @ torch.stack([scores, -cost_terms], dim=1)
            logits = h @ arms.transpose(1, 2) + self.log_sharpness.exp() * value
        logits = logits.masked_fill(~mask[:, None, :], MASKED_LOGIT)
        return logits, self.value_pool(inputs, tokens, mask)
