"""The trained BaRP router, independent of Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from policies.barp.network import BarpNetwork, NetworkShape
from policies.base import BoolArray, FloatArray, Policy, masked_softmax
from policies.errors import InputError

CHUNK_ROWS = 8192
"""Rows in one forward pass: bounds the memory of a large batch."""


class BarpPolicy(Policy):
    """``pi(a | x, w) = softmax(g([h(x); phi(w)]))`` over eligible models (BaRP, arXiv 2510.07429)."""

    kind: ClassVar[str] = "barp"

    def __init__(self, models: tuple[str, ...], network: BarpNetwork) -> None:
        if network.shape.n_models != len(models):
            raise ValueError(f"the network decides over {network.shape.n_models} models, not {len(models)}")
        self.models = models
        self.network = network.eval().requires_grad_(False)

    def action_probabilities(
        self,
        embeddings: FloatArray,
        preferences: FloatArray,
        eligible: BoolArray | None = None,
        *,
        prompt_tokens: FloatArray | None = None,
    ) -> npt.NDArray[np.float64]:
        n = len(embeddings)
        checked = self.checked_preferences(embeddings, preferences, self.network.shape.embedding_dim)
        mask = self.checked_eligible(n, eligible)
        e = torch.from_numpy(np.array(embeddings, dtype=np.float32))
        w = torch.from_numpy(checked.astype(np.float32))
        with torch.inference_mode():
            chunks = [
                self.network(e[i : i + CHUNK_ROWS], w[i : i + CHUNK_ROWS]) for i in range(0, n, CHUNK_ROWS)
            ]
        if not chunks:
            return np.zeros((0, len(self.models)))
        return masked_softmax(torch.cat(chunks).numpy(), mask)

    def save(self, directory: Path) -> None:
        (directory / "network.json").write_text(json.dumps(self.network.shape.to_dict(), sort_keys=True))
        save_file(self.network.state_dict(), directory / "network.safetensors")

    @classmethod
    def load(cls, directory: Path, models: tuple[str, ...]) -> Self:
        for name in ("network.json", "network.safetensors"):
            if not (directory / name).exists():
                raise InputError(f"{directory / name}: missing; not a saved '{cls.kind}' policy")
        shape = NetworkShape.from_dict(json.loads((directory / "network.json").read_text()))
        return cls(models, BarpNetwork.of_state(shape, load_file(directory / "network.safetensors")))
