"""Configuration of the evaluate stage: comparisons, incumbent, off-policy estimates, thresholds of the verdict."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.config.base import Config, Count, Fraction, NonNegative, PathOrUri, Positive, absolute
from pipeline.config.baselines import BaselineNames
from pipeline.config.llm_bandit_suite import LlmBanditSuiteConfig

BEST_SINGLE_INCUMBENT = "best_single"
LOGGED_INCUMBENT = "logged"
ALWAYS_INCUMBENT = "always:"


def _incumbent(value: str) -> str:
    named = value in (BEST_SINGLE_INCUMBENT, LOGGED_INCUMBENT) or value.startswith(ALWAYS_INCUMBENT)
    return value if named else absolute(value)


class VerdictConfig(Config):
    """When a difference in mean reward counts, see docs/evaluation.md."""

    alpha: Annotated[float, Field(gt=0.0, lt=0.5)] = Field(
        description="one-sided error: share of candidates no better than min_gain that may ship"
    )
    min_gain: float = Field(allow_inf_nan=False, description="smallest gain in mean reward that may ship")
    worthwhile_gain: float = Field(
        allow_inf_nan=False, description="where so large a gain is ruled out, the answer is 'do not ship'"
    )
    tolerated_loss: NonNegative = Field(
        description="mean reward that one dial setting or task may lose before it blocks"
    )
    min_events: Count = Field(description="distinct prompts below which nothing is decided")
    min_difference_ess: NonNegative = Field(description="effective events that tell the two policies apart")
    min_action_events: int = Field(ge=0, description="a model logged less often is not supported")
    max_unsupported_mass: Fraction = Field(
        description="largest share of decisions that either policy may give to unsupported models"
    )
    max_mean_weight_error: NonNegative = Field(
        description="largest departure of the mean weight from 1, beyond four standard errors"
    )
    bound: Literal["normal", "studentised_bootstrap", "empirical_bernstein"]
    n_resamples: Count = Field(description="of the studentised bootstrap")

    @model_validator(mode="after")
    def _ordered(self) -> VerdictConfig:
        if self.worthwhile_gain < self.min_gain:
            raise ValueError(
                f"worthwhile_gain is {self.worthwhile_gain}; allowed: at least min_gain ({self.min_gain})"
            )
        return self


class EvaluateConfig(Config):
    """What the report compares, and when the policy may replace the incumbent."""

    bootstrap_samples: int = Field(ge=0, description="resamples for the 95 % intervals")
    baselines: BaselineNames = Field(
        description="routers fitted on the training split for comparison, of docs/baselines.md; 'all' for all"
    )
    loss_w_cost: Fraction = Field(description="dial setting at which the report lists where the policy loses")
    loss_prompts: int = Field(ge=0, description="so many prompts with the largest loss are listed")
    prompt_texts: bool = Field(description="show the start of those prompts; false leaves all texts out")
    log: PathOrUri | None = Field(
        description="feedback log to evaluate on instead of the run's data (short form: log=PATH)"
    )
    incumbent: Annotated[str, Field(min_length=1), AfterValidator(_incumbent)] = Field(
        description="what the policy must beat: best_single, always:MODEL, logged (who logged, logs only), or the "
        "folder of a policy artifact or of its run"
    )
    gate: bool = Field(description="exit code says the verdict: 0 ship, 3 do not ship, 4 not enough data")
    ope_check: int = Field(
        ge=0,
        description="simulated logs on which the estimators are checked against a full table; 0: no check",
    )
    propensity_floor: Fraction = Field(description="smaller propensities are counted in the diagnostics")
    clip: Positive = Field(description="largest weight of clipped IPS")
    switch: NonNegative = Field(description="weight above which Switch-DR trusts the prediction")
    verdict: VerdictConfig
    suite: Literal["llm_bandit"] | None = Field(
        description="run a suite of checks instead (short form: suite=llm_bandit)"
    )
    llm_bandit: LlmBanditSuiteConfig

    @model_validator(mode="after")
    def _gated(self) -> EvaluateConfig:
        if self.gate and self.suite is not None:
            raise ValueError(f"gate=true with suite={self.suite}: a suite gives no verdict; allowed: false")
        return self
