"""A small world for the evaluation tests: three models, two kinds of prompts, a policy that sees the kind."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from pipeline.compose import load_config, record_config
from pipeline.config import TradewindConfig
from pipeline.embedding_table import EmbeddingTable, write_embeddings
from pipeline.layout import RunLayout
from policies.base import Policy, greedy
from policies.bundle import EncoderIdentity, RouterBundle
from policies.constants import BestSinglePolicy
from policies.costs import CostModel
from policies.datasets import OutcomeMatrix
from policies.pool import ModelPool, ModelSpec

POOL = ModelPool("tiny", tuple(ModelSpec(m, p, p) for m, p in (("dear", 9.0), ("code", 1.0), ("cheap", 0.2))))
COSTS_USD = np.array([9e-3, 1e-3, 2e-4])
ENCODER = EncoderIdentity("test", "0" * 64, "torch-fp32", 2)


@dataclass(frozen=True)
class KindPolicy(Policy):
    """Calls the coder on code (first embedding entry positive), else the dear or, on a low budget, the cheap."""

    kind: ClassVar[str] = "kind"
    models: tuple[str, ...] = POOL.models

    def action_probabilities(self, embeddings, preferences, eligible=None, *, prompt_tokens=None):
        is_code = embeddings[:, 0] > 0
        low_budget = preferences[:, 1] > 0.5
        return greedy(np.eye(3)[np.where(is_code, 1, np.where(low_budget, 2, 0))])


def outcomes(n: int, seed: int, tasks: tuple[str, ...] = ("code", "prose")) -> OutcomeMatrix:
    rng = np.random.default_rng(seed)
    kind = rng.integers(2, size=n)
    chance = np.where(kind[:, None] == 0, [0.6, 0.9, 0.3], [0.8, 0.2, 0.5])
    embeddings = np.stack([1.0 - 2.0 * kind, rng.normal(size=n)], axis=1).astype(np.float32)
    return OutcomeMatrix(
        prompt_ids=np.array([f"p{seed}-{i:04d}" for i in range(n)]),
        tasks=np.array([tasks[k] for k in kind]),
        pool=POOL,
        embeddings=embeddings,
        prompt_tokens=np.full(n, 20.0),
        scores=(rng.random((n, 3)) < chance).astype(np.float64),
        costs_usd=COSTS_USD * rng.uniform(0.5, 1.5, size=(n, 3)),
        completion_tokens=np.full((n, 3), np.nan),
    )


def bundle(policy: Policy, training: OutcomeMatrix) -> RouterBundle:
    return RouterBundle(policy, POOL, ENCODER, CostModel.fit(training), training.tau_usd(), "kind-0")


def config(folder: Path, *overrides: str) -> TradewindConfig:
    """Return the configuration of a run over the CSV files that :func:`write_inputs` makes."""
    return load_config(_overrides(folder, *overrides))


def _overrides(folder: Path, *overrides: str) -> list[str]:
    return [
        "data=tables",
        f"data.prompts={folder / 'prompts.csv'}",
        f"data.outcomes={folder / 'outcomes.csv'}",
        f"pool={folder / 'pool.yaml'}",
        "pool.name=tiny",
        f"run.dir={folder / 'run'}",
        "evaluate.bootstrap_samples=50",
        *overrides,
    ]


def write_inputs(folder: Path, data: OutcomeMatrix) -> None:
    POOL.write(folder / "pool.yaml")
    with (folder / "prompts.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["prompt_id", "prompt", "task"])
        rows.writerows((p, f"question {p}", t) for p, t in zip(data.prompt_ids, data.tasks))
    with (folder / "outcomes.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["prompt_id", "model", "score", "cost"])
        for i, prompt_id in enumerate(data.prompt_ids):
            for j, model in enumerate(POOL.models):
                if np.isfinite(data.scores[i, j]):
                    rows.writerow([prompt_id, model, data.scores[i, j], data.costs_usd[i, j]])


def prepared_run(folder: Path, data: OutcomeMatrix, *overrides: str) -> TradewindConfig:
    """Ingest the data, write its embeddings and a trained artifact: all that evaluate reads."""
    from pipeline import ingest

    write_inputs(folder, data)
    settings = config(folder, *overrides)
    record_config(settings, _overrides(folder, *overrides))
    ingest.run(settings)
    layout = RunLayout.of(settings)
    hashes = np.array(["h"] * len(data), dtype=object)
    write_embeddings(
        EmbeddingTable(data.prompt_ids.astype(object), hashes, data.embeddings, ENCODER), layout.embeddings
    )
    complete = data.complete()
    policy = BestSinglePolicy.fit(POOL.models, complete.scores, complete.costs_usd, complete.tau_usd())
    bundle(policy, complete).save(layout.policy)
    return settings
