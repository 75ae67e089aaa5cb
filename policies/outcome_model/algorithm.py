"""The outcome model as an RLlib algorithm: configuration, one epoch per ``train()``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from policies.outcome_model.learner import OutcomeModelLearner
from policies.outcome_model.network import EnsembleShape
from policies.outcome_model.policy import OutcomeModelPolicy
from policies.outcome_model.rl_module import OutcomeModule
from policies.rllib.offline import Mode, OfflineAlgorithm, OfflineConfig


class OutcomeModelConfig(OfflineConfig):
    """Configuration of :class:`OutcomeModelAlgorithm`; unknown settings fail."""

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class or OutcomeModelAlgorithm)
        self.input_price_per_token_usd: tuple[float, ...] = ()
        self.members = 4
        self.components = 64
        self.token_scale = 0.3
        self.hidden = 64
        self.dropout = 0.3
        self.input_dropout = 0.1
        self.length_weight = 0.3
        self.weight_decay = 0.01
        self.interaction_decay = 0.1
        self.topics = 60
        self.topic_share = 0.3
        self.epochs = 30
        self.epochs_per_round = 3
        self.visits_per_round = 10
        self.explore = 0.3
        self.lr = 2e-3
        self.train_batch_size_per_learner = 512

    def training(
        self,
        *,
        mode: Mode = NotProvided,
        tau_usd: float = NotProvided,
        members: int = NotProvided,
        components: int = NotProvided,
        token_scale: float = NotProvided,
        hidden: int = NotProvided,
        dropout: float = NotProvided,
        input_dropout: float = NotProvided,
        length_weight: float = NotProvided,
        weight_decay: float = NotProvided,
        interaction_decay: float = NotProvided,
        topics: int = NotProvided,
        topic_share: float = NotProvided,
        epochs: int = NotProvided,
        epochs_per_round: int = NotProvided,
        visits_per_round: int = NotProvided,
        explore: float = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set how the outcome model learns; further keywords (``lr`` ...) are RLlib's.

        Args:
            mode: ``simulated_online`` (full table, one entry revealed a visit) or ``logged``.
            tau_usd: cost scale in USD.
            members: networks in the ensemble.
            components: principal components of the embedding.
            token_scale: standard deviation of the log prompt tokens among the inputs.
            hidden: width of a member's hidden layer.
            dropout: share of hidden units dropped.
            input_dropout: share of inputs dropped.
            length_weight: weight of the cost loss beside the score loss.
            weight_decay: decoupled decay of trunk and shared directions.
            interaction_decay: decoupled decay of the per-model interactions.
            topics: clusters of prompts at most, by k-means on the projected embeddings.
            topic_share: share of the models' mean scores per topic in the predicted scores; 0 for none.
            epochs: length of the training, over which the learning rate makes one cycle.
            epochs_per_round: epochs between two rounds of visits (simulated online).
            visits_per_round: visits of each prompt in a round (simulated online).
            explore: share of uniformly random visits after the first round (simulated online).
        """
        given = {name: value for name, value in locals().items() if name in self.__dict__}
        super().training(**kwargs)
        for name, value in given.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    def data(
        self, directory: str | Path, *, embedding_dim: int, input_price_per_token_usd: tuple[float, ...]
    ) -> Self:
        """Name the folder with the sub-folder ``train`` of training columns, and the prices of a prompt token."""
        self.offline_data(input_=[str(directory)])
        self.input_price_per_token_usd = input_price_per_token_usd
        # RLlib wants spaces; the module's real inputs are the learner's features.
        self.environment(
            observation_space=gym.spaces.Box(-np.inf, np.inf, (embedding_dim,), np.float32),
            action_space=gym.spaces.Discrete(len(input_price_per_token_usd)),
        )
        return self

    @property
    def n_models(self) -> int:
        """Number of models."""
        return int(self.action_space.n)

    def get_default_learner_class(self) -> type[OutcomeModelLearner]:
        """Return the learner."""
        return OutcomeModelLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return the module's recipe."""
        components = min(self.components, self.observation_space.shape[0])
        shape = EnsembleShape(
            components + 1, self.n_models, self.members, self.hidden, self.dropout, self.input_dropout
        )
        return RLModuleSpec(
            module_class=OutcomeModule, model_config={"shape": shape.to_dict(), "seed": self.seed}
        )


class OutcomeModelAlgorithm(OfflineAlgorithm):
    """Trains the outcome model; each result carries ``loss`` and ``revealed``, the share of entries seen."""

    reported = ("loss", "revealed")

    @classmethod
    def get_default_config(cls) -> AlgorithmConfig:
        """Return the default configuration."""
        return OutcomeModelConfig()

    def weights(self) -> dict[str, npt.NDArray]:
        """Return a copy of the network's weights, for :meth:`set_weights`."""
        # On the host the arrays are views of the tensors that training goes on writing to.
        return {name: np.array(values) for name, values in self.module_state().items()}

    def set_weights(self, weights: dict[str, npt.NDArray]) -> None:
        """Put the network's weights back; what has been revealed stays."""
        self.learner_group.set_weights({DEFAULT_MODULE_ID: weights})

    def policy(self, models: tuple[str, ...]) -> OutcomeModelPolicy:
        """Return the current outcome model as a router over ``models``, in column order."""
        return self.surviving(self._frozen).named(models)

    def _frozen(self) -> OutcomeModelPolicy:
        return next(iter(self.learner_group.foreach_learner(_freeze))).get()


def _freeze(learner: OutcomeModelLearner) -> OutcomeModelPolicy:
    return learner.freeze()
