"""Settings of what decides: the champion, a canary, a shadow and versions that callers may name."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ReleaseSettings(BaseModel):
    """Releases besides the champion.

    With a registry the aliases ``canary`` and ``shadow`` name versions and the model's tag ``canary_percent`` says
    how much traffic the canary decides; what is given here goes before them. Without one, folders are given here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    poll_s: float = Field(
        default=10.0,
        ge=0.0,
        description="how often the registry's aliases are looked at; 0: only when told to",
    )
    canary: str | None = Field(
        default=None, description="folder of a policy artifact, or a registered version"
    )
    canary_percent: float | None = Field(
        default=None,
        ge=0.0,
        le=100.0,
        description="sessions that the canary decides; null means the tag, or 0",
    )
    shadow: str | None = Field(
        default=None, description="folder or registered version that decides along, without effect"
    )
    pinned: tuple[str, ...] = Field(
        default=(), description="folders or registered versions that requests may name besides those in use"
    )
