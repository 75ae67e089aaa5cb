"""The outcome ensemble as an RLlib module."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from policies.outcome_model.network import EnsembleShape, OutcomeEnsemble


class OutcomeModule(TorchRLModule):
    """Wraps one :class:`OutcomeEnsemble`; ``model_config`` holds its shape and the seed of its first weights."""

    def setup(self) -> None:
        """Build the ensemble with first weights that depend on the seed alone."""
        with torch.random.fork_rng([]):
            torch.manual_seed(self.model_config["seed"])
            self.network = OutcomeEnsemble(EnsembleShape(**self.model_config["shape"]))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {"outputs": self.network(batch[Columns.OBS])}
