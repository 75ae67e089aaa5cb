"""What single stages need: training, simulation, tracking, batch routing, serving, and the cluster."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.base import Config, Count, Fraction, NonNegative, PathOrUri, Positive
from serve.settings.access import AccessSettings
from serve.settings.decision import RoutingSettings
from serve.settings.gateway import GatewaySettings
from serve.settings.log import DecisionLogSettings
from serve.settings.metrics import MetricsSettings
from serve.settings.releases import ReleaseSettings
from serve.settings.scaling import ScalingSettings


class TrainConfig(Config):
    """How the policy learns."""

    mode: Literal["simulated_online", "logged"] = Field(
        description="'simulated_online': a fresh action each visit (the paper's); 'logged': the feedback log alone"
    )
    tau_usd: Positive | None = Field(
        description="cost scale; null means the 95th percentile of training costs"
    )
    tau_quantile: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        description="cost scale of the learner alone, as a quantile of training costs; null means tau_usd"
    )
    num_learners: int = Field(ge=0, description="remote learners; 0 trains in the driver's process")
    num_gpus_per_learner: NonNegative
    torch_threads: Count


class SimulateConfig(Config):
    """Which log to draw from a full table."""

    logging_policy: Literal["uniform", "epsilon_greedy", "price_softmax", "bundle"]
    epsilon: Fraction = Field(description="share of uniform exploration of 'epsilon_greedy' and 'bundle'")
    temperature: Positive = Field(description="of 'price_softmax': softmax(-log10 price / temperature)")
    bundle: PathOrUri | None = Field(description="policy artifact that logs when logging_policy=bundle")
    events_per_prompt: Count


class TrackingConfig(Config):
    """MLflow: tracking server and registry."""

    uri: str | None = Field(description="tracking URI; null means a sqlite file in the root of runs")
    experiment: str
    model: str = Field(description="registered model's name")
    alias: str = Field(description="alias that the new version takes")


class RouteConfig(Config):
    """Batch decisions."""

    decision: Literal["greedy", "sample"] = Field(
        description="most probable model, or a draw from the policy"
    )
    w_costs: tuple[Fraction, ...] | None = Field(description="dial settings; null means 0, 0.05 .. 1")
    block_rows: Count = Field(description="prompts decided in one call of a policy")


class ServeConfig(Config):
    """The endpoint."""

    host: str
    port: int = Field(ge=1, le=65535)
    num_replicas: Count
    num_cpus_per_replica: Positive
    max_ongoing_requests: Count
    max_batch_size: Count = Field(description="fresh prompts encoded in one forward pass")
    batch_wait_s: NonNegative = Field(description="how long the first prompt waits for company")
    cache_entries: int = Field(ge=0, description="embeddings remembered per replica")
    max_prompt_chars: Count
    decision: Literal["greedy", "sample"]
    routing: RoutingSettings = Field(description="named dials, exploration, sessions")
    log: DecisionLogSettings = Field(description="the decision log")
    gateway: GatewaySettings = Field(description="the OpenAI-compatible gateway")
    scaling: ScalingSettings = Field(description="autoscaling and the queue")
    releases: ReleaseSettings = Field(description="canary, shadow, pinned versions")
    access: AccessSettings = Field(description="API keys, limits, budgets")
    metrics: MetricsSettings = Field(description="figures and traces")
    bundle: PathOrUri | None = Field(
        description="policy artifact to serve instead of the registry's champion"
    )


class ClusterConfig(Config):
    """Which Ray cluster."""

    address: str = Field(description="'local', 'auto', or a cluster address")
    num_cpus: Count | None = Field(description="CPUs of a local cluster; null means all")
    object_store_mb: int = Field(ge=80)
