"""Every configuration key, its type, its range and what it means: frozen pydantic models, no unknown key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from pipeline.config_base import Config, Count, Fraction, NonNegative, PathOrUri, Positive
from pipeline.config_baselines import BaselineConfig
from pipeline.config_evaluate import EvaluateConfig


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
    paraphrase_cosine: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        description="prompts with the same numbers and vectors at least this close share a split; null: copies only"
    )

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

    @field_validator("prompts", "outcomes", "log", mode="before")
    @classmethod
    def _given(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


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


class OutcomeModelByMode(Config):
    """What the amount of feedback decides: a log of one outcome a prompt wants a smaller, more decayed network."""

    hidden: Count = Field(description="width of a member's hidden layer")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    weight_decay: NonNegative = Field(description="decoupled decay of trunk and shared directions")
    interaction_decay: NonNegative = Field(description="decoupled decay of the per-model interactions")
    epochs: Count = Field(description="length of training: one cycle of the learning rate")


class VisitsConfig(Config):
    """How prompts are visited in simulated online training."""

    epochs_per_round: Count = Field(description="epochs between two rounds of visits")
    visits_per_round: Count = Field(description="visits of each prompt in a round")
    explore: Fraction = Field(description="share of uniformly random visits after the first round")


class OutcomeModelSettings(Config):
    """Shared outcome model: predict every model's score and cost, then take the best for the preference."""

    name: Literal["outcome_model"]
    members: Count = Field(description="networks in the ensemble")
    components: Count = Field(description="principal components of the embedding")
    token_scale: Positive = Field(description="standard deviation of the log prompt tokens among the inputs")
    input_dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    length_weight: NonNegative = Field(description="weight of the cost loss beside the score loss")
    lr: Positive = Field(description="peak of the learning rate's cycle")
    batch_size: Count
    logged: OutcomeModelByMode
    simulated_online: OutcomeModelByMode
    visits: VisitsConfig


PolicyConfig = Annotated[BarpConfig | OutcomeModelSettings | BaselineConfig, Field(discriminator="name")]


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


class Interval(Config):
    """A range to search."""

    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = Field(default=False, description="uniform in the logarithm")
    integer: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Interval:
        if not self.low < self.high:
            raise ValueError(f"low={self.low} is not below high={self.high}")
        if self.log and self.low <= 0.0:
            raise ValueError(f"low={self.low}: a logarithmic range starts above 0")
        return self


class Choices(Config):
    """Values to search among."""

    choices: tuple[str | bool | int | float | tuple[int, ...] | None, ...] = Field(min_length=1)


def _kind(value: Any) -> str:
    names = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return "choices" if "choices" in names else "interval"


Dimension = Annotated[
    Annotated[Interval, Tag("interval")] | Annotated[Choices, Tag("choices")], Discriminator(_kind)
]
SearchObjective = Literal["reward", "cost_rise", "largest_share"]


class TuneConfig(Config):
    """Hyper-parameter search with Ray Tune."""

    num_samples: Count = Field(description="trials; the first one is the configuration as it is")
    time_budget_s: Positive | None = Field(
        description="no trial goes on after that long; null means no limit"
    )
    scheduler: Literal["asha", "pb2", "none"] = Field(
        description="'asha' stops the worse trials early, 'pb2' lets them go on from a better trial's weights"
    )
    searcher: Literal["optuna", "random"] = Field(description="who proposes the values of a new trial")
    objectives: tuple[SearchObjective, ...] = Field(
        min_length=1,
        description="what Optuna is told: validation reward, rise of cost along the dial, share of one model",
    )
    space: dict[str, Dimension] | None = Field(
        description="key -> {low, high, log} or {choices}; null means the learner's own space"
    )
    cpus_per_trial: Positive = Field(description="may be a fraction; trials run as long as CPUs last")
    max_epochs: Count | None = Field(description="longest trial; null means train.max_epochs")
    grace_epochs: Count = Field(description="no trial is stopped or changed before that many epochs")
    reduction_factor: Annotated[int, Field(ge=2)] = Field(description="one in so many trials goes on (asha)")
    checkpoint_epochs: Count = Field(description="a killed search repeats at most so many epochs of a trial")
    max_cost_rise: NonNegative = Field(
        description="largest rise of mean cost between dial settings of a trial that may win, relative to the "
        "dearest model"
    )
    max_largest_share: Fraction = Field(
        description="largest share of decisions, over the dial, for one model of a trial that may win"
    )
    retrain: bool = Field(description="retrain the best on train and validation prompts and register it")
    alias: str = Field(min_length=1, description="alias that the retrained policy takes")
    resume: PathOrUri | None = Field(description="folder of an unfinished search (short form: resume=PATH)")

    @model_validator(mode="after")
    def _consistent(self) -> TuneConfig:
        if len(set(self.objectives)) < len(self.objectives) or "reward" not in self.objectives:
            raise ValueError(
                f"objectives is {list(self.objectives)}; allowed: reward, alone or with cost_rise, largest_share"
            )
        if self.scheduler == "pb2" and self.searcher != "random":
            raise ValueError("scheduler=pb2 proposes values itself; allowed with it: searcher=random")
        return self


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
