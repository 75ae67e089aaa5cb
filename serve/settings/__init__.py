"""What one endpoint needs to know, checked before anything starts; the arguments of a Serve config file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from policies.errors import InputError
from serve.settings.access import AccessSettings
from serve.settings.decision import RoutingSettings
from serve.settings.gateway import GatewaySettings
from serve.settings.log import DecisionLogSettings
from serve.settings.metrics import MetricsSettings
from serve.settings.releases import ReleaseSettings
from serve.settings.scaling import ScalingSettings


class ServeSettings(BaseModel):
    """Settings of the routing endpoint.

    Either ``bundle`` names a policy artifact, or ``tracking_uri`` the MLflow registry whose ``alias`` is served.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    bundle: str | None = Field(
        default=None, description="folder of a policy artifact; null means the registry"
    )
    tracking_uri: str | None = Field(default=None, description="MLflow tracking server and registry")
    model: str = Field(default="tradewind-router", min_length=1, description="registered model's name")
    alias: str = Field(default="champion", min_length=1, description="alias of the version to serve")
    cache_dir: str = Field(
        default_factory=lambda: str(Path.home() / ".cache" / "tradewind" / "policies"),
        description="where artifacts of the registry are kept, by policy version",
    )
    encoder_backend: str | None = Field(
        default=None, description="null means the backend the policy was trained on"
    )
    encoder_batch_tokens: int = Field(default=1024, ge=64, description="padded tokens in one forward pass")
    encoder_threads: int = Field(default=1, ge=1)
    max_batch_size: int = Field(default=16, ge=1, description="fresh prompts encoded together at most")
    batch_wait_s: float = Field(
        default=0.0, ge=0.0, le=1.0, description="how long the first fresh prompt waits for company; 0: never"
    )
    cache_entries: int = Field(default=10_000, ge=0, description="embeddings remembered per replica")
    max_prompt_chars: int = Field(
        default=200_000, ge=1, description="longer prompts and conversations are refused"
    )
    decision: Literal["greedy", "sample"] = Field(
        default="greedy", description="the most probable model, or a draw from the policy"
    )
    routing: RoutingSettings = RoutingSettings()
    log: DecisionLogSettings = DecisionLogSettings()
    gateway: GatewaySettings = GatewaySettings()
    num_replicas: int = Field(default=1, ge=1)
    num_cpus_per_replica: float = Field(default=1.0, gt=0.0)
    max_ongoing_requests: int = Field(
        default=256, ge=1, description="requests in flight per replica; more are refused with 503"
    )
    metrics: MetricsSettings = MetricsSettings()
    access: AccessSettings = AccessSettings()
    releases: ReleaseSettings = ReleaseSettings()
    scaling: ScalingSettings = ScalingSettings()

    @model_validator(mode="after")
    def _one_source(self) -> ServeSettings:
        if self.bundle is None and self.tracking_uri is None:
            raise ValueError("give bundle (a policy artifact) or tracking_uri (an MLflow registry)")
        return self

    @property
    def replicas_at_most(self) -> int:
        """How many replicas there can be."""
        return max(self.num_replicas, self.scaling.max_replicas or 0)

    @classmethod
    def parse(cls, values: dict[str, object]) -> ServeSettings:
        """Return checked settings.

        Raises:
            InputError: an unknown key, a wrong type or an out-of-range value; the message names the key, the
                value and what is allowed.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = []
            for problem in error.errors():
                key = ".".join(str(part) for part in problem["loc"])
                # A key may stand where its hash belongs: what an entry of keys holds is not repeated.
                value = "" if key.startswith("access.") else f"={problem['input']!r}"
                lines.append(f"{key}{value}: {problem['msg']}" if key else problem["msg"])
            raise InputError("serve settings: " + "; ".join(lines)) from None
