"""Configuration of the suite of checks of LLM Bandit: what is held out, how often, and the goals."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Config, Count, Fraction, NonNegative, Positive

CheckName = Literal["unseen_models", "preferences", "query_costs", "candidate_sets", "routers"]
ComparedRouter = Literal["barp", "outcome_model", "knn", "ridge", "mlp", "clusters", "matrix_factorisation"]
SelectionName = Literal["stratified", "random", "informative"]


class UnseenModelsConfig(Config):
    """Check 1: models that joined after training."""

    newcomers: Count = Field(description="models held out of everything")
    holdouts: Count = Field(description="draws of those models; each costs a training")
    prompts: Annotated[tuple[Count, ...], Field(min_length=1)] = Field(
        description="numbers of prompts asked; all training prompts are tried as well"
    )
    selections: Annotated[tuple[SelectionName, ...], Field(min_length=1)] = Field(
        description="strategies that choose the prompts; 'random' is what the others are compared with"
    )
    draws: Count = Field(description="choices of prompts by each strategy")
    goal_prompts: Count = Field(description="so many prompts must suffice")
    goal_aiq: Fraction = Field(description="share of the retrained policy's AIQ")

    @model_validator(mode="after")
    def _asked(self) -> UnseenModelsConfig:
        if self.goal_prompts not in self.prompts:
            raise ValueError(
                f"goal_prompts is {self.goal_prompts}; allowed: one of prompts {list(self.prompts)}"
            )
        return self


class PreferencesConfig(Config):
    """Check 2: preferences that training never drew."""

    trained: tuple[NonNegative, NonNegative] = Field(description="w = w_cost / w_quality of full training")
    held_out: Annotated[tuple[tuple[NonNegative, NonNegative], ...], Field(min_length=1)] = Field(
        description="intervals of it that the other policy never draws"
    )
    step: Positive = Field(description="distance of the values of w that are compared")
    goal_loss: Fraction = Field(description="share of the mean reward that may be lost")

    @model_validator(mode="after")
    def _inside(self) -> PreferencesConfig:
        low, high = self.trained
        for a, b in self.held_out:
            if not low <= a < b <= high:
                raise ValueError(
                    f"held_out [{a}, {b}]; allowed: a part of trained [{low}, {high}], low < high"
                )
        covered = low
        for a, b in sorted(self.held_out):
            covered = max(covered, b) if a <= covered else covered
        if covered >= high:
            raise ValueError(f"held_out {list(self.held_out)} leaves nothing of trained [{low}, {high}]")
        return self


class QueryCostsConfig(Config):
    """Check 3: costs by each query's predicted length."""

    noise: tuple[NonNegative, ...] = Field(
        description="standard deviations of the log error of each predicted length, by itself or one a model"
    )
    bias: tuple[Positive, ...] = Field(description="factors on all predicted lengths")
    draws: Count
    tolerated_loss: Fraction = Field(description="share of the mean reward at which an error is too large")


class CandidateSetsConfig(Config):
    """Check 4: any candidates."""

    sets: Count = Field(description="random sets; each costs a training")
    smallest: Annotated[int, Field(ge=2)]
    goal_reward: Fraction = Field(description="share of the mean reward of policies trained for each set")


class RoutersConfig(Config):
    """Check 5: other routers."""

    names: tuple[ComparedRouter, ...]
    goal_saving: Fraction = Field(
        description="saving at the best single model's quality, where the oracle allows it"
    )


class LlmBanditSuiteConfig(Config):
    """The checks that the paper asks for: `evaluate suite=llm_bandit`."""

    checks: Annotated[tuple[CheckName, ...], Field(min_length=1)]
    unseen_models: UnseenModelsConfig
    preferences: PreferencesConfig
    query_costs: QueryCostsConfig
    candidate_sets: CandidateSetsConfig
    routers: RoutersConfig
