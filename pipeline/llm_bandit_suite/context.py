"""What every check starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.compose import load_config
from pipeline.config import TradewindConfig
from pipeline.config.llm_bandit import LlmBanditSettings
from pipeline.config.llm_bandit_suite import LlmBanditSuiteConfig
from pipeline.llm_bandit_suite.bench import Benches
from pipeline.llm_bandit_suite.trainings import Trained, Training
from policies.datasets import OutcomeMatrix
from policies.llm_bandit.policy import LlmBanditPolicy

FULL = "full"
"""The policy over the whole pool, as the stage `train` trains it."""


@dataclass(frozen=True)
class SuiteContext:
    """Data and settings of a suite.

    Attributes:
        config: of the run, its policy LLM Bandit.
        train: training prompts over the run's pool.
        validation: prompts that choose checkpoints and dial settings.
        benches: complete prompts of the splits that are reported.
        tau_usd: cost scale of every comparison.
        folder: of the suite's results.
    """

    config: TradewindConfig
    train: OutcomeMatrix
    validation: OutcomeMatrix
    benches: Benches
    tau_usd: float
    folder: Path

    @property
    def settings(self) -> LlmBanditSuiteConfig:
        """The suite's own settings."""
        return self.config.evaluate.llm_bandit

    @property
    def seed(self) -> int:
        """Seed of every draw."""
        return self.config.run.seed

    @property
    def n_models(self) -> int:
        """Models of the pool."""
        return len(self.train.pool.models)

    def full(self) -> Training:
        """Return the training over the whole pool."""
        return self.training(FULL)

    def training(
        self,
        name: str,
        columns: tuple[int, ...] | None = None,
        *,
        own_tau: bool = False,
        supervised: str | None = None,
        candidates: Mapping[str, object] | None = None,
    ) -> Training:
        """Return a training of LLM Bandit.

        Args:
            name: of its folder.
            columns: models that it sees; None means all.
            own_tau: the cost scale comes from these models' costs alone.
            supervised: see :class:`Training`.
            candidates: changes to how candidate sets and preferences are drawn.
        """
        policy = self.config.policy
        assert isinstance(policy, LlmBanditSettings)
        if candidates is not None:
            policy = policy.model_copy(
                update={
                    "candidates": type(policy.candidates).model_validate(
                        {**policy.candidates.model_dump(), **candidates}
                    )
                }
            )
        return Training(
            name,
            self.config.model_copy(update={"policy": policy}),
            tuple(range(self.n_models)) if columns is None else columns,
            None if own_tau else self.tau_usd,
            supervised,
        )

    def other(self, policy: str) -> Training:
        """Return the training of another policy with its default settings, over the whole pool."""
        settings = load_config([f"policy={policy}"]).policy
        config = self.config.model_copy(update={"policy": settings})
        return Training(f"router-{policy}", config, tuple(range(self.n_models)), self.tau_usd)


def llm_bandit(trained: Trained) -> LlmBanditPolicy:
    """Return a trained policy as what it is."""
    assert isinstance(trained.policy, LlmBanditPolicy)
    return trained.policy
