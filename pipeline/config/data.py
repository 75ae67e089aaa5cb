"""Where a run lives, what it reads, how prompts are split and encoded, and which models may be called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from pipeline.config.base import Config, Count, Fraction, NonNegative, PathOrUri


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
    comparisons: PathOrUri | None = Field(
        default=None,
        description="table prompt_id, model_a, model_b, winner (either model or 'tie'), for LLM Bandit; null: none",
    )
    embeddings: PathOrUri | None = Field(
        default=None,
        description="vectors of prompts, as the endpoint's log has them; null encodes every text",
    )
    benchmark: Benchmark | None = Field(description="public benchmark to read, see docs/loaders.md")
    path: PathOrUri | None = Field(description="its file or folder; null downloads it from the hub by name")
    columns: ColumnsConfig
    unknown_models: Literal["error", "drop"] = Field(description="what to do with models that have no price")
    log_costs: Literal["logged", "pool_prices"] = Field(
        description="costs of a feedback log: as logged, or recomputed from its tokens at the pool file's prices"
    )
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
    backend: Literal[
        "auto",
        "torch-fp32",
        "torch-bf16",
        "openvino-fp32",
        "openvino-bf16",
        "onnx-fp32",
        "onnx-int8",
        "torch-cuda-fp16",
    ] = Field(
        description="auto: torch-cuda-fp16 with GPUs, else OpenVINO where the driver's machine has it, in bfloat16 "
        "where its CPU computes in it; int8 has a cosine of 0.985 to float32"
    )
    max_tokens: int = Field(ge=8, le=8192, description="longer prompts are cut")
    batch_tokens: int = Field(ge=64, description="padded tokens in one forward pass")
    block_rows: int = Field(
        ge=1, description="prompts per stored shard; a killed run loses the shard that each actor is at"
    )
    num_actors: Count = Field(description="encoder processes, one CPU each")
    max_actors: Count | None = Field(
        description="the pool grows from num_actors up to this while windows wait; null: a fixed pool"
    )
    num_gpus_per_actor: NonNegative = Field(description="GPUs of an encoder process, such as 1 or 0.5")
    dtype: Literal["float32", "float16"] = Field(description="how vectors are stored")
    store: PathOrUri | None = Field(description="embedding store shared by runs; null means ROOT/embeddings")

    @property
    def wanted_backend(self) -> str:
        """The backend to ask for: ``auto`` means the GPU's where actors have one."""
        return "torch-cuda-fp16" if self.backend == "auto" and self.num_gpus_per_actor else self.backend

    @model_validator(mode="after")
    def _consistent(self) -> EncoderConfig:
        if self.max_actors is not None and self.max_actors < self.num_actors:
            raise ValueError(
                f"encoder.max_actors={self.max_actors} is below encoder.num_actors={self.num_actors}"
            )
        on_gpu = self.wanted_backend == "torch-cuda-fp16"
        if on_gpu and not self.num_gpus_per_actor:
            raise ValueError("encoder.backend=torch-cuda-fp16 needs encoder.num_gpus_per_actor above 0")
        if self.num_gpus_per_actor and not on_gpu:
            raise ValueError(
                f"encoder.num_gpus_per_actor={self.num_gpus_per_actor:g}: {self.backend} runs on the CPU; "
                "allowed: encoder.backend=auto or torch-cuda-fp16"
            )
        return self
