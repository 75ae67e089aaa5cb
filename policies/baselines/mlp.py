"""Score predictor: an average of small networks on the embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from policies.base import FloatArray
from policies.baselines.value import LinearCost, ValuePolicy
from policies.datasets import OutcomeMatrix

HIDDEN = 128
DROPOUT = 0.3
EPOCHS = 30
BATCH_PROMPTS = 256
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class MlpPolicy(ValuePolicy):
    """One hidden layer, cross-entropy on scores, averaged over seeds.

    Attributes:
        w1: shape (n_seeds, hidden, d); ``b1`` (n_seeds, hidden).
        w2: shape (n_seeds, n_models, hidden); ``b2`` (n_seeds, n_models).
    """

    kind: ClassVar[str] = "mlp"
    models: tuple[str, ...]
    cost: LinearCost
    w1: npt.NDArray[np.float32]
    b1: npt.NDArray[np.float32]
    w2: npt.NDArray[np.float32]
    b2: npt.NDArray[np.float32]

    @classmethod
    def fit(cls, data: OutcomeMatrix, tau_usd: float) -> Self:
        nets = [_trained(data, seed) for seed in SEEDS]
        stacked = [
            np.stack([net.state_dict()[name].numpy() for net in nets])
            for name in ("0.weight", "0.bias", "3.weight", "3.bias")
        ]
        return cls(data.pool.models, LinearCost.fit(data, tau_usd), *stacked)

    def predict_scores(self, embeddings: FloatArray) -> npt.NDArray[np.float64]:
        x = torch.from_numpy(np.ascontiguousarray(embeddings, dtype=np.float32))
        total = torch.zeros(len(x), len(self.models))
        for w1, b1, w2, b2 in zip(self.w1, self.b1, self.w2, self.b2):
            hidden = nn.functional.gelu(nn.functional.linear(x, torch.from_numpy(w1), torch.from_numpy(b1)))
            total += torch.sigmoid(nn.functional.linear(hidden, torch.from_numpy(w2), torch.from_numpy(b2)))
        return (total / len(self.w1)).numpy().astype(np.float64)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {"w1": self.w1, "b1": self.b1, "w2": self.w2, "b2": self.b2}

    @classmethod
    def from_arrays(
        cls, models: tuple[str, ...], cost: LinearCost, arrays: dict[str, npt.NDArray[Any]]
    ) -> Self:
        return cls(models, cost, **arrays)


def _trained(data: OutcomeMatrix, seed: int) -> nn.Sequential:
    x = torch.from_numpy(np.ascontiguousarray(data.embeddings))
    y = torch.from_numpy(data.scores.astype(np.float32))
    # A forked generator keeps the process's own random stream as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(x.shape[1], HIDDEN), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, y.shape[1])
        )
        optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-3)
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(x)).split(BATCH_PROMPTS):
                loss = nn.functional.binary_cross_entropy_with_logits(net(x[batch]), y[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return net.eval()
