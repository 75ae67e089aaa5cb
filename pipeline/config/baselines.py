"""Settings of the baselines, each trainable as ``policy=NAME``; their meaning is that of the policy's ``fit``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from pipeline.config.base import Config, Count, Fraction, NonNegative, Positive

Penalties = Annotated[tuple[Positive, ...], Field(min_length=1)]

FullTableBaseline = Literal["knn", "ridge", "logistic", "mlp", "clusters", "matrix_factorisation", "carrot"]
"""Trained on prompts that every model answered."""

LogBaseline = Literal["direct", "epsilon_greedy", "linucb", "thompson"]
"""Trained on a feedback log."""

FULL_TABLE_BASELINES: tuple[str, ...] = get_args(FullTableBaseline)
LOG_BASELINES: tuple[str, ...] = get_args(LogBaseline)


def _all_spelled_out(value: Any) -> Any:
    if value in ("all", ["all"], ("all",)):
        return FULL_TABLE_BASELINES + LOG_BASELINES
    return [value] if isinstance(value, str) else value


BaselineNames = Annotated[tuple[FullTableBaseline | LogBaseline, ...], BeforeValidator(_all_spelled_out)]
"""A list of names, one name, or ``all``."""


class KnnSettings(Config):
    """Nearest training prompts."""

    name: Literal["knn"]
    neighbours: Annotated[tuple[Count, ...], Field(min_length=1)] = Field(
        description="numbers of neighbours tried by leave-one-out error"
    )
    sharpness: NonNegative = Field(description="how fast a neighbour's weight falls with the cosine distance")


class RidgeSettings(Config):
    """Ridge regression on the embedding."""

    name: Literal["ridge"]
    alphas: Penalties = Field(description="penalties tried by cross-validated reward")


class LogisticSettings(Config):
    """One logistic regression a model."""

    name: Literal["logistic"]
    inverse_penalties: Penalties = Field(description="inverse penalties tried on a fifth of the prompts")


class MlpSettings(Config):
    """Small networks on the embedding."""

    name: Literal["mlp"]
    hidden: Count
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    epochs: Count
    members: Count = Field(description="networks averaged")


class ClusterSettings(Config):
    """Clusters of prompts."""

    name: Literal["clusters"]
    clusters: Count = Field(description="clusters in one clustering")
    clusterings: Count = Field(description="clusterings averaged")
    sharpness: NonNegative = Field(description="how fast a cluster's weight falls with the squared distance")
    prior_prompts: NonNegative = Field(
        description="weight of the overall mean in a cluster's mean, in prompts"
    )


class MatrixFactorisationSettings(Config):
    """Bilinear form of a model's vector and the projected prompt."""

    name: Literal["matrix_factorisation"]
    rank: Count
    epochs: Count
    weight_decay: NonNegative
    members: Count = Field(description="factorisations averaged")


class CarrotSettings(Config):
    """Kernel regression of scores and costs."""

    name: Literal["carrot"]
    landmarks: Count = Field(description="training prompts that the kernel is spanned by")
    alphas: Penalties = Field(description="penalties tried by leave-one-out error")


class DirectSettings(Config):
    """Regressions per model on the events that called it."""

    name: Literal["direct"]
    alphas: Penalties = Field(description="penalties tried by leave-one-out error")


class LinearArmsSettings(Config):
    """What the linear bandits share."""

    components: Count = Field(description="principal components of the embedding")
    penalties: Penalties = Field(description="tried by leave-one-out error over all arms")


class EpsilonGreedySettings(LinearArmsSettings):
    """Linear arms, the best mean but for a share of random calls."""

    name: Literal["epsilon_greedy"]
    epsilon: Fraction = Field(description="share of uniformly random calls")


class LinUcbSettings(LinearArmsSettings):
    """Linear arms, the best upper confidence bound."""

    name: Literal["linucb"]
    alpha: NonNegative = Field(description="standard deviations added to the mean")


class ThompsonSettings(LinearArmsSettings):
    """Linear arms, each with the probability that it is the best."""

    name: Literal["thompson"]
    width: Positive = Field(description="factor on the posterior's standard deviation")


BaselineConfig = (
    KnnSettings
    | RidgeSettings
    | LogisticSettings
    | MlpSettings
    | ClusterSettings
    | MatrixFactorisationSettings
    | CarrotSettings
    | DirectSettings
    | EpsilonGreedySettings
    | LinUcbSettings
    | ThompsonSettings
)
