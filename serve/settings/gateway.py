"""Settings of the OpenAI-compatible gateway."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


def _base_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a http or https URL such as https://api.example.com/v1")
    if parts.username or parts.password:
        raise ValueError("must not hold credentials; name an environment variable in api_key_env")
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or fragment")
    return value.rstrip("/")


BaseUrl = Annotated[str, AfterValidator(_base_url)]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class UpstreamSettings(BaseModel):
    """Where one model of the pool is called, where that differs from the pool file."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    base_url: BaseUrl | None = Field(default=None, description="null means the pool's endpoint")
    model: str | None = Field(default=None, min_length=1, description="its name there; null means the pool's")
    api_key_env: EnvName | None = Field(
        default=None, description="environment variable with the key; null means that of the endpoint"
    )
    stream_usage: bool = Field(
        default=True, description="ask for token counts at the end of streams (stream_options.include_usage)"
    )


class BreakerSettings(BaseModel):
    """When an upstream is left alone for a while."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_s: Positive = Field(default=30.0, description="calls that count are at most this old")
    min_calls: int = Field(default=5, ge=1, description="fewer calls in the window never open it")
    failure_share: float = Field(
        default=0.5, gt=0.0, le=1.0, description="share of failed calls that opens it"
    )
    open_s: Positive = Field(default=10.0, description="first rest; doubled by each failed trial call")
    max_open_s: Positive = Field(default=120.0, description="longest rest")

    @model_validator(mode="after")
    def _ordered(self) -> BreakerSettings:
        if self.max_open_s < self.open_s:
            raise ValueError(f"max_open_s ({self.max_open_s}) must be at least open_s ({self.open_s})")
        return self


class GatewaySettings(BaseModel):
    """The OpenAI-compatible gateway: upstreams, their limits and what happens when they fail."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        default="tradewind", pattern=r"^[^:\s]+$", description="model name that means: choose for me"
    )
    default_w_cost: float = Field(
        default=0.5, ge=0.0, le=1.0, description="the dial of a request that does not set it"
    )
    upstreams: dict[str, UpstreamSettings] = Field(default={}, description="by model of the pool")
    api_key_envs: dict[BaseUrl, EnvName] = Field(
        default={}, description="environment variable with the key, by endpoint (base URL)"
    )
    attempts: int = Field(default=2, ge=1, le=10, description="calls to one upstream before the next model")
    max_models: int = Field(default=3, ge=1, description="models tried for one request")
    backoff_s: NonNegative = Field(
        default=0.25,
        description="longest wait before the second attempt; doubles with each, with full jitter",
    )
    max_wait_s: NonNegative = Field(
        default=2.0, description="an upstream that asks (Retry-After) for a longer wait is passed over"
    )
    connect_timeout_s: Positive = 5.0
    first_byte_timeout_s: Positive = Field(
        default=120.0, description="from sending the request to the first byte of the answer"
    )
    read_timeout_s: Positive = Field(default=60.0, description="longest silence within an answer")
    total_timeout_s: Positive = Field(default=600.0, description="for all attempts and the whole answer")
    max_connections: int = Field(default=1024, ge=1, description="open at once, per replica")
    keepalive_s: Positive = Field(default=60.0, description="how long an idle connection is kept")
    reserve_tokens: int = Field(
        default=4096,
        ge=1,
        description="length of answer that budgets set aside where a request sets no limit",
    )
    max_answer_mb: Positive = Field(default=64.0, description="longest answer that is not a stream")
    trust_env: bool = Field(default=False, description="use HTTP(S)_PROXY of the environment")
    breaker: BreakerSettings = BreakerSettings()
