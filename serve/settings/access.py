"""Settings of the door: API keys with their limits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

KeyId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{4,32}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class KeySettings(BaseModel):
    """One API key, without the key: ``python -m serve.access.keys new NAME`` makes both."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    id: KeyId = Field(description="the part of the key that is not secret")
    name: str = Field(min_length=1, max_length=100)
    sha256: Sha256 = Field(description="hash of the whole key, lower-case hexadecimal")
    roles: tuple[Literal["route", "admin"], ...] = Field(default=("route",), min_length=1)
    requests_per_s: float | None = Field(default=None, gt=0.0, description="null means no limit")
    burst: int | None = Field(
        default=None, ge=1, description="requests at once; null means one second's worth, at least 1"
    )
    usd_per_day: float | None = Field(default=None, gt=0.0, description="budget of a UTC day")
    usd_per_month: float | None = Field(default=None, gt=0.0, description="budget of a UTC month")
    usd_total: float | None = Field(default=None, gt=0.0, description="budget for good")

    @model_validator(mode="after")
    def _burst_needs_a_rate(self) -> KeySettings:
        if self.burst is not None and self.requests_per_s is None:
            raise ValueError("burst needs requests_per_s")
        return self

    @property
    def has_budget(self) -> bool:
        """Whether any budget limits the key."""
        return not (self.usd_per_day is self.usd_per_month is self.usd_total is None)


class AccessSettings(BaseModel):
    """Who may use the endpoint. Without keys everybody may, for everything."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    keys: tuple[KeySettings, ...] = ()
    keys_file: str | None = Field(default=None, description="YAML file with more keys, a list as in `keys`")
    state_dir: str | None = Field(
        default=None, description="folder that remembers what was spent; budgets need one"
    )
    slice_share: float = Field(
        default=0.02,
        gt=0.0,
        le=1.0,
        description="part of a budget that a replica takes at a time, and that a killed one takes with it",
    )
    hold_s: float = Field(
        default=10.0,
        gt=0.0,
        le=3600.0,
        description="after so long without use a replica gives its slice back",
    )
    control_timeout_s: float = Field(
        default=2.0, gt=0.0, le=60.0, description="how long a request waits for the replicas' common state"
    )
    max_body_bytes: int = Field(default=16 * 2**20, ge=1024, description="longer requests are refused unread")
