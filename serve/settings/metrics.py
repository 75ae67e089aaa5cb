"""Settings of the figures and traces that a replica tells about itself."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class MetricsSettings(BaseModel):
    """What is measured while serving."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flush_s: float = Field(
        default=1.0, gt=0.0, le=60.0, description="how often figures are handed to Ray's exporter"
    )
    propensity_floor: float = Field(
        default=0.01,
        ge=0.0,
        le=1.0,
        description="decisions of a smaller propensity are counted: they make estimates from the log noisy",
    )
    traces: bool = Field(
        default=False, description="OpenTelemetry spans, sent where OTEL_EXPORTER_OTLP_ENDPOINT says"
    )
