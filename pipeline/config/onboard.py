"""Configuration of the onboard stage: a new model, the prompts it is asked, and its answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config.base import Config, Count, PathOrUri


class OnboardConfig(Config):
    """A new model for a trained LLM Bandit: `onboard select` names the prompts to ask, `onboard fit` adds the model."""

    action: Literal["select", "fit"] | None = Field(description="the word after the stage: select or fit")
    model: str | None = Field(description="name of the new model")
    pool: PathOrUri | None = Field(
        description="pool file with the new model's prices, context window, endpoint and tags; null: pool.path"
    )
    n_prompts: Count = Field(description="prompts to ask")
    selection: str = Field(
        description="strategy that chooses them: informative, stratified (the paper's) or random, see "
        "policies.llm_bandit.selection"
    )
    outcomes: PathOrUri | None = Field(
        description="the new model's answers, in the columns of an outcome table"
    )
    min_answers: Count = Field(description="fewer scored answers are refused")
    alias: str = Field(min_length=1, description="alias that the router with the larger pool takes")
