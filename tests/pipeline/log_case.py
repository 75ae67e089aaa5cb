"""Run folders that hold a feedback log and no outcomes table, made with the pipeline's own writers."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline import ingest
from pipeline.compose import load_config, record_config
from pipeline.config import TradewindConfig
from pipeline.embedding_table import EmbeddingTable, write_embeddings
from pipeline.layout import RunLayout
from pipeline.simulate import simulate_log
from pipeline.tables import conform, write_table
from policies.base import Policy
from policies.bundle import RouterBundle
from policies.costs import CostModel
from policies.datasets import OutcomeMatrix
from policies.registry import POLICY_CLASSES
from policies.schemas import FEEDBACK
from tests.pipeline.evaluation_case import ENCODER, POOL, KindPolicy, outcomes


class SavedKindPolicy(KindPolicy):
    """The policy that sees the kind of prompt, in a form that an artifact can hold."""

    kind = "kind"

    def save(self, directory: Path) -> None:
        (directory / "policy.json").write_text("{}")

    @classmethod
    def load(cls, directory: Path, models: tuple[str, ...]) -> SavedKindPolicy:
        return cls(models)


def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make artifacts of :class:`SavedKindPolicy` readable for one test."""
    monkeypatch.setitem(POLICY_CLASSES, "kind", f"{__name__}:{SavedKindPolicy.__name__}")


def uniform_log(data: OutcomeMatrix, config: TradewindConfig, seed: int = 0) -> pl.DataFrame:
    return simulate_log(data, config.simulate, seed=seed)


def save_log(log: pl.DataFrame, path: Path) -> Path:
    write_table(conform(FEEDBACK, log.to_arrow(), str(path)), str(path))
    return path


def save_bundle(folder: Path, policy: Policy, data: OutcomeMatrix) -> Path:
    RouterBundle(policy, POOL, ENCODER, CostModel.fit(data), data.tau_usd()).save(folder)
    return folder


def overrides(folder: Path, *more: str) -> list[str]:
    return [
        "data=log",
        f"data.prompts={folder / 'prompts.csv'}",
        f"data.log={folder / 'log.parquet'}",
        f"pool={folder / 'pool.yaml'}",
        "pool.name=tiny",
        "data.split.train=0.4",
        "data.split.validation=0.1",
        "data.split.test=0.5",
        f"run.dir={folder / 'run'}",
        "evaluate.bootstrap_samples=50",
        *more,
    ]


def log_run(
    folder: Path,
    policy: Policy,
    *more: str,
    n: int = 2400,
    change: Callable[[pl.DataFrame], pl.DataFrame] = lambda log: log,
) -> TradewindConfig:
    """Make a run whose source is a log of ``n`` uniformly logged events, one a prompt.

    Args:
        folder: gets the input files and ``run``.
        policy: of the run's artifact.
        more: further overrides.
        n: number of prompts.
        change: made to the log before it is written.
    """
    data = outcomes(n, 5)
    POOL.write(folder / "pool.yaml")
    with (folder / "prompts.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["prompt_id", "prompt", "task"])
        rows.writerows((p, f"question {p}", t) for p, t in zip(data.prompt_ids, data.tasks))
    given = overrides(folder, *more)
    config = load_config(given)
    save_log(change(uniform_log(data, config)), folder / "log.parquet")
    record_config(config, given)
    ingest.run(config)
    layout = RunLayout.of(config)
    hashes = np.array(["h"] * n, dtype=object)
    write_embeddings(
        EmbeddingTable(data.prompt_ids.astype(object), hashes, data.embeddings, ENCODER), layout.embeddings
    )
    save_bundle(layout.policy, policy, data)
    return config
