"""Every configuration key, its type, its range and what it means: frozen pydantic models, no unknown key."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pipeline.config.base import Config, PathOrUri
from pipeline.config.data import DataConfig, EncoderConfig, PoolConfig, RunConfig
from pipeline.config.evaluate import EvaluateConfig
from pipeline.config.onboard import OnboardConfig
from pipeline.config.policy import PolicyConfig
from pipeline.config.stages import (
    ClusterConfig,
    RouteConfig,
    ServeConfig,
    SimulateConfig,
    TrackingConfig,
    TrainConfig,
)
from pipeline.config.tune import TuneConfig


class TradewindConfig(Config):
    """The whole configuration."""

    run: RunConfig
    data: DataConfig
    pool: PoolConfig
    encoder: EncoderConfig
    policy: PolicyConfig
    train: TrainConfig
    simulate: SimulateConfig
    tune: TuneConfig
    evaluate: EvaluateConfig
    onboard: OnboardConfig
    tracking: TrackingConfig
    route: RouteConfig
    serve: ServeConfig
    cluster: ClusterConfig
    output: PathOrUri | None = Field(
        description="file that 'route' and 'simulate' write; null: in the run's folder"
    )

    def plain(self) -> dict[str, Any]:
        """Return nested plain values, ready for YAML or MLflow."""
        return self.model_dump(mode="json")
