"""BaRP's network as an RLlib module."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from policies.barp.network import BarpNetwork, NetworkShape


class BarpModule(TorchRLModule):
    """Wraps one :class:`BarpNetwork`; ``model_config`` holds its shape and the seed of its first weights."""

    def setup(self) -> None:
        """Build the network with first weights that depend on the seed alone."""
        with torch.random.fork_rng([]):
            torch.manual_seed(self.model_config["seed"])
            self.network = BarpNetwork(NetworkShape.from_dict(self.model_config["shape"]))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        observation = batch[Columns.OBS]
        logits = self.network(observation["embedding"], observation["preference"])
        return {Columns.ACTION_DIST_INPUTS: logits}
