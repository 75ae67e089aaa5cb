"""What a hyper-parameter search tries, how long, and what it aims at."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from pipeline.config.base import Config, Count, Fraction, NonNegative, PathOrUri, Positive


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
    max_epochs: Count | None = Field(description="longest trial; null means policy.max_epochs")
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
