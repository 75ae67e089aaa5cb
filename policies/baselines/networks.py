"""Gradient training that the network baselines share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from policies.datasets import OutcomeMatrix

LEARNING_RATE = 1e-3
BATCH_PROMPTS = 256


def train_on_scores(
    build: Callable[[], nn.Module], data: OutcomeMatrix, *, epochs: int, weight_decay: float, seed: int
) -> nn.Module:
    """Return a network trained with AdamW on the cross-entropy of all scores.

    Args:
        build: makes the network, (n, d) to logits (n, n_models); called under the seed.
        data: completely observed prompts.
        epochs: passes over the prompts.
        weight_decay: decoupled.
        seed: of initial weights, order and dropout.
    """
    x = torch.from_numpy(np.ascontiguousarray(data.embeddings, dtype=np.float32))
    y = torch.from_numpy(data.scores.astype(np.float32))
    # A forked generator keeps the process's own random stream as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build()
        optimiser = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=weight_decay)
        for _ in range(epochs):
            for batch in torch.randperm(len(x)).split(BATCH_PROMPTS):
                loss = nn.functional.binary_cross_entropy_with_logits(net(x[batch]), y[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return net.eval()


def weights(nets: list[nn.Module], name: str) -> npt.NDArray[np.float32]:
    """Return one parameter of several networks, stacked along a new first axis, float32."""
    tensors: list[Tensor] = [net.state_dict()[name] for net in nets]
    return np.stack([tensor.numpy() for tensor in tensors])
