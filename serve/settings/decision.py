"""Settings of deciding: named dials, exploration, sessions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Dial = Annotated[float, Field(ge=0.0, le=1.0)]


class ExplorationSettings(BaseModel):
    """How far the endpoint tries models that its policy would not call, so that the log can teach the next one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["none", "epsilon", "softmax", "newcomers"] = Field(
        default="none",
        description="'epsilon' calls any eligible model with that probability, 'softmax' prefers good ones, "
        "'newcomers' tries models that are known less well than the others and may be the best; for policies that "
        "say how unsure they are of their scores (llm_bandit)",
    )
    traffic_percent: float = Field(
        default=100.0, ge=0.0, le=100.0, description="share of requests that explore by epsilon or softmax"
    )
    epsilon: float = Field(default=0.1, ge=0.0, le=1.0)
    temperature: float = Field(
        default=0.05, gt=0.0, description="of the softmax over the policy's values, in units of the reward"
    )
    newcomer_percent: float = Field(
        default=5.0, ge=0.0, le=100.0, description="most of the traffic that 'newcomers' gives away"
    )
    newcomer_ratio: float = Field(
        default=2.0,
        ge=1.0,
        description="a model is new while the deviation of its predicted score's logit exceeds so many times that of "
        "the pool's better known quarter",
    )
    propensity_floor: float = Field(
        default=0.0, ge=0.0, le=0.5, description="no eligible model is less likely; at most 1 / their number"
    )


class SessionSettings(BaseModel):
    """When a conversation stays with the model that answered last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sticky: bool = Field(default=True, description="false decides every turn anew")
    ttl_s: float = Field(default=300.0, gt=0.0, description="how long an upstream keeps the prompt cached")
    cached_token_discount: float = Field(
        default=0.9, ge=0.0, le=1.0, description="share of the input price that a cached token saves"
    )
    min_gain: float = Field(
        default=0.01, ge=0.0, description="a smaller gain in reward is not worth a switch, whatever the cache"
    )
    explore: bool = Field(default=False, description="explore in the middle of sessions as well")


class RoutingSettings(BaseModel):
    """How a model is chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    presets: dict[str, Dial] = Field(
        default={"quality": 0.0, "balanced": 0.3, "cheap": 0.8},
        description="w_cost by the name that requests may give as preference",
    )
    exploration: ExplorationSettings = ExplorationSettings()
    sessions: SessionSettings = SessionSettings()

    @model_validator(mode="after")
    def _named(self) -> RoutingSettings:
        if any(not name.strip() for name in self.presets):
            raise ValueError("presets: a name is empty")
        return self
