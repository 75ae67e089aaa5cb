"""BaRP as an RLlib algorithm: configuration, one epoch per ``train()``, validation by the dial."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from policies.barp.learner import BarpLearner
from policies.barp.network import BarpNetwork, Head, NetworkShape
from policies.barp.rl_module import BarpModule
from policies.barp.validation import DialValidator
from policies.rllib.columns import VALIDATION, open_columns
from policies.rllib.offline import Mode, OfflineAlgorithm, OfflineConfig

Baseline = Literal["mean", "preference"]


class BarpAlgorithmConfig(OfflineConfig):
    """Configuration of :class:`BarpAlgorithm`; unknown settings fail.

    Example:
        >>> config = (
        ...     BarpAlgorithmConfig()
        ...     .data("/data/arrays", embedding_dim=384, n_models=11)
        ...     .training(mode="logged", tau_usd=0.01, lr=3e-4, entropy_coeff=0.01)
        ... )
    """

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class or BarpAlgorithm)
        self.weight_decay = 0.0
        self.entropy_coeff = 0.01
        self.importance_clip = 20.0
        self.baseline: Baseline = "preference"
        self.head: Head = "mlp"
        self.hidden: tuple[int, ...] = (256,)
        self.preference_dim = 32
        self.dropout = 0.0
        self.input_std = 0.1
        self.lr = 3e-4
        self.train_batch_size_per_learner = 256
        self.evaluation_interval = 1

    def training(
        self,
        *,
        mode: Mode = NotProvided,
        tau_usd: float = NotProvided,
        weight_decay: float = NotProvided,
        entropy_coeff: float = NotProvided,
        importance_clip: float = NotProvided,
        baseline: Baseline = NotProvided,
        head: Head = NotProvided,
        hidden: tuple[int, ...] = NotProvided,
        preference_dim: int = NotProvided,
        dropout: float = NotProvided,
        input_std: float = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set how BaRP learns; further keywords (``lr``, ``train_batch_size_per_learner``) are RLlib's.

        Args:
            mode: ``simulated_online`` (full table, one entry revealed a visit) or ``logged``.
            tau_usd: cost scale in USD.
            weight_decay: decoupled weight decay.
            entropy_coeff: beta of the entropy bonus.
            importance_clip: largest importance weight in logged mode.
            baseline: see :func:`policies.barp.learner.batch_baseline`.
            head: decision head.
            hidden: widths of the MLP head's hidden layers.
            preference_dim: width of the preference encoder's output.
            dropout: share of hidden units dropped.
            input_std: standard deviation to which the embedding's entries are scaled.
        """
        super().training(**kwargs)
        given = {
            "mode": mode,
            "tau_usd": tau_usd,
            "weight_decay": weight_decay,
            "entropy_coeff": entropy_coeff,
            "importance_clip": importance_clip,
            "baseline": baseline,
            "head": head,
            "hidden": hidden,
            "preference_dim": preference_dim,
            "dropout": dropout,
            "input_std": input_std,
        }
        for name, value in given.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    def data(self, directory: str | Path, *, embedding_dim: int, n_models: int) -> Self:
        """Name the folder with the sub-folders ``train`` and ``validation`` of training columns."""
        self.offline_data(input_=[str(directory)])
        self.environment(
            observation_space=gym.spaces.Dict(
                {
                    "embedding": gym.spaces.Box(-np.inf, np.inf, (embedding_dim,), np.float32),
                    "preference": gym.spaces.Box(0.0, 1.0, (2,), np.float32),
                }
            ),
            action_space=gym.spaces.Discrete(n_models),
        )
        return self

    def validate(self) -> None:
        """Check the settings that RLlib does not know.

        Raises:
            ValueError: a setting is out of range.
        """
        super().validate()
        if self.baseline not in ("mean", "preference"):
            raise ValueError(f"baseline is {self.baseline!r}; allowed: mean, preference")
        if not self.importance_clip > 0.0:
            raise ValueError(f"importance_clip is {self.importance_clip}: must be positive")

    @property
    def network_shape(self) -> NetworkShape:
        """Shape of the network that these settings describe."""
        return NetworkShape(
            embedding_dim=self.observation_space["embedding"].shape[0],
            n_models=int(self.action_space.n),
            head=self.head,
            hidden=tuple(self.hidden),
            preference_dim=self.preference_dim,
            dropout=self.dropout,
            input_std=self.input_std,
        )

    def get_default_learner_class(self) -> type[BarpLearner]:
        """Return the learner."""
        return BarpLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return the module's recipe."""
        settings = {"shape": self.network_shape.to_dict(), "seed": self.seed}
        return RLModuleSpec(module_class=BarpModule, model_config=settings)


class BarpAlgorithm(OfflineAlgorithm):
    """Trains BaRP; each result carries ``loss``, ``train_reward``, ``entropy`` and ``validation_reward``."""

    reported = ("loss", "train_reward", "entropy")

    @classmethod
    def get_default_config(cls) -> AlgorithmConfig:
        """Return the default configuration."""
        return BarpAlgorithmConfig()

    def setup(self, config: AlgorithmConfig) -> None:
        """Build learners and the validator."""
        super().setup(config)
        root = Path(self.config.input_[0])
        train = self.offline_data.columns
        self._validator = DialValidator.of(open_columns(root / VALIDATION), train, self.config.tau_usd)

    def network(self) -> BarpNetwork:
        """Return a copy of the current network on the host, in evaluation mode."""
        prefix = "network."
        state = {
            name.removeprefix(prefix): torch.from_numpy(np.array(value))
            for name, value in self.module_state().items()
        }
        return BarpNetwork.of_state(self.config.network_shape, state)

    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """Return the validation prompts' mean reward over the dial under greedy decisions."""
        return {"validation_reward": self._validator.mean_reward(self.network())}
