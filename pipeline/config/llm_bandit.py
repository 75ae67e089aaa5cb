"""What LLM Bandit is made of and how it learns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Config, Count, Fraction, NonNegative, Positive

Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]


class IdentityConfig(Config):
    """Identity vectors: neural variational item response theory."""

    identity_dim: Count = Field(description="length of a model's identity vector")
    components: Count = Field(description="principal components of the embedding")
    token_scale: Positive = Field(description="standard deviation of the log prompt tokens among the inputs")
    members: Count = Field(description="networks whose logits are averaged")
    input_dropout: Dropout
    lr: Positive = Field(description="peak of the learning rate's cycle")
    batch_size: Count = Field(description="prompts in one gradient step")
    max_steps: Count = Field(description="most gradient steps of one training; large logs get fewer epochs")
    length_weight: NonNegative = Field(description="weight of an answer's length beside a score")
    pair_weight: NonNegative = Field(description="weight of a comparison beside a score")
    kl_weight: NonNegative = Field(
        description="weight of the divergence to the prior; 1 is the evidence bound"
    )
    binary_scores: bool = Field(description="make scores 0 or 1 at the threshold that keeps their mean")
    folds: Annotated[int, Field(ge=2)] = Field(description="parts of the out-of-fold predictions")


class IdentityByMode(Config):
    """What the amount of feedback decides."""

    hidden: Count = Field(description="width of a member's hidden layer")
    dropout: Dropout
    weight_decay: NonNegative = Field(description="decoupled decay of the backbone")
    loading_decay: NonNegative = Field(
        description="decoupled decay of the loadings' dependence on the prompt"
    )
    epochs: Count = Field(description="length of training: one cycle of the learning rate")


class SetConfig(Config):
    """The set policy's network."""

    width: Count
    heads: Count
    blocks: Count
    head: Literal["arm", "identity"] = Field(
        description="the dot product is with identity, cost and predicted score; or, as published, the identity"
    )
    normalisation: Literal["tau", "set"] = Field(
        description="costs count in units of tau; or scores and costs relative to the set's largest, as published"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> SetConfig:
        if self.width % self.heads:
            raise ValueError(
                f"policy.set.width={self.width} must be a multiple of policy.set.heads={self.heads}"
            )
        return self


class CandidatesConfig(Config):
    """Candidate sets and preferences drawn in training."""

    min_candidates: Count
    max_candidates: Count
    ratio_intervals: tuple[tuple[NonNegative, NonNegative], ...] = Field(
        min_length=1, description="intervals of w = w_cost / w_quality, drawn uniformly"
    )
    simplex_share: Fraction = Field(
        description="share of preferences drawn uniformly from the simplex instead"
    )

    @model_validator(mode="after")
    def _ordered(self) -> CandidatesConfig:
        if self.min_candidates > self.max_candidates:
            raise ValueError(
                f"policy.candidates.min_candidates={self.min_candidates} exceeds max_candidates={self.max_candidates}"
            )
        for low, high in self.ratio_intervals:
            if not low < high:
                raise ValueError(
                    f"policy.candidates.ratio_intervals: [{low}, {high}] is empty; allowed: low < high"
                )
        return self


class PretrainConfig(Config):
    """Supervised steps before reinforcement learning."""

    steps: Annotated[int, Field(ge=0)]
    batch_size: Count = Field(description="decisions in one gradient step")
    preferences_per_set: Count = Field(description="decisions that share a prompt and a candidate set")
    lr: Positive


class PpoSettings(Config):
    """Reinforcement learning from the pretrained policy; the iteration with the best validation reward is kept."""

    iterations: Annotated[int, Field(ge=0)]
    sets_per_iteration: Annotated[int, Field(ge=2, multiple_of=2)] = Field(
        description="prompts with a candidate set, drawn in pairs of neighbours, in an iteration"
    )
    preferences_per_set: Count = Field(description="decisions that share a prompt and a candidate set")
    minibatch_sets: Count
    epochs: Count = Field(description="passes over an iteration's decisions")
    lr: Positive
    clip: Fraction
    entropy_coeff: NonNegative
    value_coeff: NonNegative
    mixup_alpha: NonNegative = Field(description="Beta parameter of on-manifold mixup; 0 turns it off")
    validate_every: Count = Field(description="iterations between two validations")


class LlmBanditSettings(Config):
    """LLM Bandit (arXiv 2502.02743): identity vectors and a policy over any candidate set."""

    name: Literal["llm_bandit"]
    identity: IdentityConfig
    logged: IdentityByMode
    simulated_online: IdentityByMode
    set: SetConfig
    candidates: CandidatesConfig
    pretrain: PretrainConfig
    ppo: PpoSettings
    importance_clip: Positive = Field(description="largest 1 / propensity in logged mode")
