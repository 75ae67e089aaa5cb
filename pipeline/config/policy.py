"""What each policy is made of and how it learns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.base import Config, Count, Fraction, NonNegative, Positive
from pipeline.config.baselines import BaselineConfig
from pipeline.config.llm_bandit import LlmBanditSettings


class BarpConfig(Config):
    """BaRP (arXiv 2510.07429): softmax policy on [prompt embedding; encoded preference], REINFORCE."""

    name: Literal["barp"]
    head: Literal["mlp", "linear", "bilinear"] = Field(description="decision head")
    hidden: tuple[Count, ...] = Field(description="widths of the MLP head's hidden layers")
    preference_dim: Count = Field(description="width of the preference encoder's output")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    input_std: Positive = Field(
        description="scale of the standardised embedding; the smaller, the smoother the learned function"
    )
    lr: Positive
    weight_decay: NonNegative
    batch_size: Count = Field(description="rows in one gradient step, over all learners")
    max_epochs: Count
    patience_epochs: Count = Field(description="stop after so many epochs without a better validation reward")
    entropy_coeff: NonNegative
    importance_clip: Positive = Field(description="largest importance weight in logged mode")
    baseline: Literal["mean", "preference"] = Field(
        description="what the reward is compared with: the batch's mean, or its least-squares fit on w_quality"
    )


class OutcomeModelByMode(Config):
    """What the amount of feedback decides: a log of one outcome a prompt wants a smaller, more decayed network."""

    hidden: Count = Field(description="width of a member's hidden layer")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    weight_decay: NonNegative = Field(description="decoupled decay of trunk and shared directions")
    interaction_decay: NonNegative = Field(description="decoupled decay of the per-model interactions")
    topic_share: Fraction = Field(description="share of mean scores per topic in the predicted scores")
    epochs: Count = Field(description="length of training: one cycle of the learning rate")
    min_steps_per_epoch: Count = Field(description="gradient steps that small data take, in smaller batches")


class VisitsConfig(Config):
    """How prompts are visited in simulated online training."""

    epochs_per_round: Count = Field(description="epochs between two rounds of visits")
    visits_per_round: Count = Field(description="visits of each prompt in a round")
    explore: Fraction = Field(description="share of uniformly random visits after the first round")


class OutcomeModelSettings(Config):
    """Shared outcome model: predict every model's score and cost, then take the best for the preference."""

    name: Literal["outcome_model"]
    members: Count = Field(description="networks in the ensemble")
    components: Count = Field(description="principal components of the embedding")
    token_scale: Positive = Field(description="standard deviation of the log prompt tokens among the inputs")
    input_dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    length_weight: NonNegative = Field(description="weight of the cost loss beside the score loss")
    topics: Count = Field(
        description="clusters of prompts at most, in which each model's mean score is taken"
    )
    lr: Positive = Field(description="peak of the learning rate's cycle")
    batch_size: Count = Field(description="largest number of rows in one gradient step")
    logged: OutcomeModelByMode
    simulated_online: OutcomeModelByMode
    visits: VisitsConfig


PolicyConfig = Annotated[
    BarpConfig | OutcomeModelSettings | LlmBanditSettings | BaselineConfig, Field(discriminator="name")
]
