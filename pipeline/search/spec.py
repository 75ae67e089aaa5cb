"""The folder of a search and the file in it that every trial reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pipeline.config import TradewindConfig
from pipeline.search.learners import searchable
from pipeline.search.space import SearchSpace
from policies.errors import InputError
from policies.pool import ModelPool, ModelSpec


@dataclass(frozen=True)
class SearchFolder:
    """Files of one search, below its run's folder."""

    root: Path

    @property
    def spec(self) -> Path:
        """What all trials have in common."""
        return self.root / "search.json"

    @property
    def arrays(self) -> Path:
        """Training and validation columns, memory-mapped by every trial."""
        return self.root / "arrays"

    @property
    def trials(self) -> Path:
        """Ray Tune's experiment: state, results and checkpoints of the trials."""
        return self.root / "trials"

    @property
    def scheduler(self) -> Path:
        """What the scheduler of the trials has seen."""
        return self.root / "scheduler.json"

    @property
    def challenger(self) -> Path:
        """Run folder of the retrained winner."""
        return self.root / "challenger"

    @property
    def results(self) -> Path:
        """All trials, best first."""
        return self.root.parent / "tune_results.json"


@dataclass(frozen=True)
class SearchSpec:
    """What all trials of a search have in common, and what a resumed one must find unchanged.

    Attributes:
        config: the run's configuration, plain.
        models: the pool's models in column order, with their prices.
        embedding_dim: length of a vector.
        reference_tau_usd: cost scale in USD by which trials are compared.
        train_sha256: hash of the training data.
        validation_sha256: hash of the validation data.
        parent_run_id: MLflow run above the trials'.
        comparisons_sha256: hash of the comparisons that trials learn from; None where they take none.
    """

    config: dict[str, Any]
    models: tuple[dict[str, Any], ...]
    embedding_dim: int
    reference_tau_usd: float
    train_sha256: str
    validation_sha256: str
    parent_run_id: str
    comparisons_sha256: str | None = None

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        staging = path.with_name(path.name + ".tmp")
        staging.write_text(json.dumps(asdict(self), indent=2) + "\n")
        staging.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file.

        Raises:
            InputError: there is none.
        """
        if not path.exists():
            raise InputError(f"{path.parent}: not the folder of a search (no {path.name})")
        body = json.loads(path.read_text())
        return cls(**{**body, "models": tuple(body["models"])})

    def pool(self) -> ModelPool:
        """Return the pool of the training data."""
        return ModelPool(self.config["pool"]["name"], tuple(ModelSpec(**model) for model in self.models))

    def configuration(self) -> TradewindConfig:
        """Return the run's configuration."""
        return TradewindConfig.model_validate(self.config)


def search_space(config: TradewindConfig) -> SearchSpace:
    """Return the checked space of a configuration, its defaults among the points.

    Raises:
        InputError: an unknown key, a value that is not allowed, or a policy that cannot be searched.
    """
    learner = searchable(config.policy.name)
    dimensions = config.tune.space if config.tune.space is not None else learner.space(config)
    if not dimensions:
        raise InputError("tune.space: empty; there is nothing to search")
    space = SearchSpace(dict(dimensions), log10=config.tune.scheduler == "pb2")
    space.check(config)
    for key in space.dimensions:
        if key.split(".")[0] not in ("train", "policy") or key in (
            "policy.name",
            "train.mode",
            "train.tau_usd",
        ):
            raise InputError(
                f"tune.space: {key}: changes the yardstick, the data or the machine, not the learner; allowed: "
                "keys of train and policy but policy.name, train.mode and train.tau_usd (search train.tau_quantile)"
            )
    return space.including(config)
