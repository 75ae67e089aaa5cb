"""Every configuration key, its type, its range and what it means: frozen pydantic models, no unknown key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _absolute(value: str) -> str:
    return value if "://" in value else str(Path(value).expanduser().absolute())


PathOrUri = Annotated[str, Field(min_length=1), AfterValidator(_absolute)]
"""A local path (made absolute, so that jobs may run elsewhere) or a file system URI."""


class Config(BaseModel):
    """Base of all groups: frozen, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class RunConfig(Config):
    """Where a run lives and what makes it repeatable."""

    root: PathOrUri = Field(description="folder that holds all runs and the embedding store")
    name: str = Field(min_length=1, description="name of the run")
    dir: PathOrUri | None = Field(description="folder of this run; null means ROOT/NAME")
    seed: int = Field(ge=0, description="seed of every random choice")

    @property
    def path(self) -> Path:
        """The run's folder."""
        return Path(self.dir) if self.dir else Path(self.root) / self.name


class SplitConfig(Config):
    """Shares of the prompts that are not of held-out tasks; membership is a hash of the prompt's text."""

    train: Fraction
    validation: Fraction
    test: Fraction
    salt: str = Field(description="another salt draws another split")

    @model_validator(mode="after")
    def _sum_to_one(self) -> SplitConfig:
        if abs(self.train + self.validation + self.test - 1.0) > 1e-9:
            raise ValueError(
                f"train + validation + test is {self.train + self.validation + self.test}; allowed: 1"
            )
        if min(self.train, self.validation, self.test) <= 0.0:
            raise ValueError("every split needs a share above 0")
        return self


class ColumnsConfig(Config):
    """Column of the contract -> column of your file, where they differ."""

    prompts: dict[str, str]
    outcomes: dict[str, str]
    log: dict[str, str]


class ExampleConfig(Config):
    """Size of the embedded example, whose outcomes are simulated."""

    n_prompts: int = Field(ge=200, description="prompts to generate")
    seed: int = Field(ge=0)


Benchmark = Literal[
    "routerbench",
    "llmrouterbench",
    "routellm",
    "ulab",
    "routerarena",
    "sprout",
    "mmlu_pro",
    "alpaca_eval",
]
"""Names of :data:`pipeline.loaders.registry.LOADERS`."""


class DataConfig(Config):
    """What is read and how it is split."""

    source: Literal["example", "tables", "log", "benchmark"]
    prompts: PathOrUri | None = Field(description="prompts table (Parquet, CSV, JSONL; file, folder or URI)")
    outcomes: PathOrUri | None = Field(description="outcomes table: every model's score and cost")
    log: PathOrUri | None = Field(description="feedback log: one called model an event")
    benchmark: Benchmark | None = Field(description="public benchmark to read, see docs/loaders.md")
    path: PathOrUri | None = Field(description="its file or folder; null downloads it from the hub by name")
    columns: ColumnsConfig
    unknown_models: Literal["error", "drop"] = Field(description="what to do with models that have no price")
    ood_tasks: tuple[str, ...] = Field(description="tasks held out from training and reported apart")
    split: SplitConfig
    example: ExampleConfig

    @model_validator(mode="after")
    def _paths_given(self) -> DataConfig:
        if self.source == "benchmark":
            if self.benchmark is None:
                raise ValueError(f"data.benchmark is not set; allowed: {', '.join(get_args(Benchmark))}")
            return self
        for key in ("benchmark", "path"):
            if getattr(self, key) is not None:
                raise ValueError(
                    f"data.{key} belongs to data=benchmark and would be ignored by '{self.source}'"
                )
        needed = {"example": (), "tables": ("prompts", "outcomes"), "log": ("prompts", "log")}[self.source]
        for key in needed:
            if getattr(self, key) is None:
                raise ValueError(f"data.{key} is not set; source '{self.source}' needs a path or URI")
        return self


class PoolConfig(Config):
    """Which models may be called."""

    path: PathOrUri = Field(description="pool file: prices and named pools")
    name: str = Field(min_length=1, description="named pool of the file, or 'all'")


class EncoderConfig(Config):
    """The frozen sentence encoder and how it is run."""

    model: str = Field(
        min_length=1, description="'minilm' (the packaged all-MiniLM-L6-v2), a folder, or a hub id"
    )
    backend: Literal["auto", "torch-fp32", "torch-bf16", "openvino-fp32", "openvino-bf16"]
    max_tokens: int = Field(ge=8, le=8192, description="longer prompts are cut")
    batch_tokens: int = Field(ge=64, description="padded tokens in one forward pass")
    block_rows: int = Field(ge=1, description="prompts per Ray Data block and per stored shard")
    num_actors: Count = Field(description="encoder processes, one CPU each")
    dtype: Literal["float32", "float16"] = Field(description="how vectors are stored")
    store: PathOrUri | None = Field(description="embedding store shared by runs; null means ROOT/embeddings")


class BarpConfig(Config):
    """BaRP (arXiv 2510.07429): softmax policy on [prompt embedding; encoded preference], REINFORCE."""

    name: Literal["barp"]
    head: Literal["mlp", "linear", "bilinear"] = Field(description="decision head")
    hidden: tuple[Count, ...] = Field(description="widths of the MLP head's hidden layers")
    preference_dim: Count = Field(description="width of the preference encoder's output")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    input_std: Positive = Field(
        description="scale of the standardised embedding; the smaller, the smoother the learned function"
    )


PolicyConfig = BarpConfig


class TrainConfig(Config):
    """How the policy learns."""

    mode: Literal["simulated_online", "logged"] = Field(
        description="'simulated_online': a fresh action each visit (the paper's); 'logged': the feedback log alone"
    )
    tau_usd: Positive | None = Field(
        description="cost scale; null means the 95th percentile of training costs"
    )
    lr: Positive
    weight_decay: NonNegative
    batch_size: Count = Field(description="rows in one gradient step, over all learners")
    max_epochs: Count
    patience_epochs: Count = Field(description="stop after so many epochs without a better validation reward")
    entropy_coeff: NonNegative
    importance_clip: Positive = Field(description="largest importance weight in logged mode")
    baseline: Literal["mean", "preference"] = Field(
        description="what the reward is compared with: the batch's mean, or its least-squares fit on w_quality"
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


class TuneConfig(Config):
    """Hyper-parameter search with Ray Tune."""

    num_samples: Count
    cpus_per_trial: Positive
    grace_epochs: Count
    resume: PathOrUri | None


class EvaluateConfig(Config):
    """What the report compares."""

    bootstrap_samples: int = Field(ge=0, description="resamples for the 95 % intervals")


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
    block_rows: Count


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
    bundle: PathOrUri | None = Field(
        description="policy artifact to serve instead of the registry's champion"
    )


class ClusterConfig(Config):
    """Which Ray cluster."""

    address: str = Field(description="'local', 'auto', or a cluster address")
    num_cpus: Count | None = Field(description="CPUs of a local cluster; null means all")
    object_store_mb: int = Field(ge=80)


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
