"""What the console asks for and is told."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError


class ModelPicture(BaseModel):
    """Where one model of the pool sits; expectations are means over the pictured prompts."""

    id: str
    expected_score: float | None
    expected_cost_usd: float
    shares: list[float] = Field(
        description="share of the prompts that it answers, at each setting of the dial"
    )


class PolicyPicture(BaseModel):
    """What the policy is expected to reach at each setting of the dial, per call."""

    expected_score: list[float] | None = Field(description="null when the policy predicts no scores")
    expected_cost_usd: list[float]


class AlwaysBest(BaseModel):
    """What savings are measured against: the model with the best mean score in training, else the dearest."""

    model: str
    expected_score: float | None
    expected_cost_usd: float


class DialAnswer(BaseModel):
    """The cost-quality picture of the champion."""

    policy_version: str
    policy_kind: str
    encoder: str
    source: str = Field(description="'traffic', or 'samples' until there is some")
    prompts: int = Field(description="how many prompts the means are over")
    w_cost: list[float] = Field(description="the settings of the dial")
    models: list[ModelPicture]
    policy: PolicyPicture
    mix_line: list[tuple[float, float]] | None = Field(
        description="(cost, score) vertices of what a coin flip between two models achieves"
    )
    always_best: AlwaysBest
    presets: dict[str, float] = Field(description="named settings of w_cost")
    samples: list[str] = Field(description="prompts to try")


class ExplainRequest(BaseModel):
    """Ask how one prompt is decided across the whole dial. Nothing is logged."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    prompt: str
    models: list[str] | None = Field(default=None, min_length=1, description="null means all")
    exclude: list[str] = Field(default=[], description="models not to choose")
    max_cost_usd: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    max_latency_s: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, prompt: str) -> str:
        if not prompt.strip():
            raise PydanticCustomError("empty_prompt", "must not be empty")
        return prompt


class ModelExplanation(BaseModel):
    """One model for one prompt."""

    id: str
    eligible: bool
    reason: str | None = Field(description="why it is not eligible")
    expected_score: float | None
    expected_cost_usd: float
    expected_latency_s: float | None
    probabilities: list[float] = Field(description="of being chosen, at each setting of the dial")


class ExplainAnswer(BaseModel):
    """One prompt across the dial."""

    policy_version: str
    prompt_tokens: int
    w_cost: list[float]
    chosen: list[str] = Field(description="the most probable model at each setting")
    models: list[ModelExplanation]


class Step(BaseModel):
    """Traffic of one step of the timeline."""

    start: str = Field(description="UTC, ISO 8601")
    decisions: int
    errors: int


class ReleaseTraffic(BaseModel):
    """A policy in use, or that was in use within the window."""

    release: str = Field(description="champion, canary, shadow, or other")
    policy_version: str
    percent: float | None = Field(
        description="share of conversations that it decides; null for what decides none"
    )
    decisions: int = Field(description="in the window")
    agreement: float | None = Field(
        description="share of this replica's decisions that a shadow would have made as well"
    )


class Upstream(BaseModel):
    """Health of one upstream as this replica's circuit breaker sees it."""

    model: str
    state: str = Field(description="closed (healthy), open (left alone) or half_open (on trial)")
    retry_after_s: float
    calls: int = Field(description="by this replica since it started")
    failures: dict[str, int] = Field(description="of those calls, by error code")


class TrafficAnswer(BaseModel):
    """What went through in the last ``window_s`` seconds, by whole minutes."""

    window_s: float
    shared: bool = Field(description="whether all replicas of the node are counted")
    decisions: int
    cost_usd: float
    known_costs: int
    always_best_cost_usd: float
    savings_usd: float
    feedback: int
    mean_score: float | None
    errors: int = Field(description="decisions whose call failed")
    by_model: dict[str, int]
    timeline: list[Step]
    releases: list[ReleaseTraffic]
    release_error: str | None = Field(description="why the last attempt to load releases failed")
    upstreams: list[Upstream]
    refusals: dict[str, int] = Field(description="by this replica since it started, by error code")
