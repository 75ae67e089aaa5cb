"""The train stage: from a run's tables and embeddings to its policy artifact."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.cluster import ray_session
from pipeline.comparisons import RunComparisons
from pipeline.config import TradewindConfig
from pipeline.console import say
from pipeline.cost_scale import reference_tau_usd, scale_costs_usd, training_tau_usd
from pipeline.join import encoder_identity, load_outcomes, load_pool
from pipeline.layout import RunLayout
from pipeline.log_columns import stream_feedback
from pipeline.log_quality import LogQuality, refuse_without_exploration
from pipeline.provenance import refuse_training
from pipeline.scratch import scratch
from pipeline.splits import TRAIN, VALIDATION
from pipeline.train_barp import train_barp
from pipeline.train_baseline import train_baseline
from pipeline.train_llm_bandit import train_llm_bandit
from pipeline.train_outcome_model import train_outcome_model
from pipeline.training import HistoryFile, Trainer, TrainingInputs, content_hash
from pipeline.training_means import training_means
from policies.bundle import RouterBundle
from policies.costs import CostModel
from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.errors import InputError

TRAINERS: dict[str, Trainer] = {
    "barp": train_barp,
    "outcome_model": train_outcome_model,
    "llm_bandit": train_llm_bandit,
    "knn": train_baseline,
    "ridge": train_baseline,
    "logistic": train_baseline,
    "mlp": train_baseline,
    "clusters": train_baseline,
    "matrix_factorisation": train_baseline,
    "carrot": train_baseline,
    "direct": train_baseline,
    "epsilon_greedy": train_baseline,
    "linucb": train_baseline,
    "thompson": train_baseline,
}
"""Learner of each ``policy.name``."""


def run(config: TradewindConfig) -> RouterBundle:
    """Train the configured policy and write it to the run's folder.

    In logged mode nothing but the feedback log is read, for the choice of the checkpoint as well.

    Raises:
        InputError: a table is missing or holds nothing to learn from.
    """
    layout = RunLayout.of(config)
    refuse_training(layout)
    layout.need(layout.splits, "ingest")
    with scratch(layout, "training") as folder:
        return _train(config, layout, folder)


def _train(config: TradewindConfig, layout: RunLayout, folder: Path) -> RouterBundle:
    parts = load_training_data(layout, config, {split: (split,) for split in (TRAIN, VALIDATION)}, folder)
    train, validation = parts[TRAIN], parts[VALIDATION]
    tau_usd = training_tau_usd(
        config, scale_costs_usd(train.scores, train.costs_usd), reference_tau_usd(config, train)
    )
    about: dict[str, Any] = {}
    if isinstance(train, LoggedFeedback):
        quality = LogQuality.of(train)
        refuse_without_exploration(quality, config, str(layout.feedback))
        about = {"log": quality.notes()}
        for remark in quality.remarks(config):
            say(f"train: {remark}")
    history = HistoryFile(layout.history)
    started = time.perf_counter()
    with ray_session(config):
        compared = RunComparisons.of(layout)
        inputs = TrainingInputs(train, validation, tau_usd, folder, history.record, compared)
        trained = TRAINERS[config.policy.name](config, inputs)
    bundle = RouterBundle(
        policy=trained.policy,
        pool=train.pool,
        encoder=encoder_identity(layout),
        cost_model=CostModel.fit(train),
        tau_usd=tau_usd,
        training_means=training_means(layout, train.pool, (TRAIN,), logged=config.train.mode == "logged"),
        notes={
            "policy": config.policy.name,
            "mode": config.train.mode,
            "seed": config.run.seed,
            "train_rows": len(train),
            "validation_rows": len(validation),
            "train_sha256": content_hash(train),
            "validation_sha256": content_hash(validation),
            **about,
            **trained.notes,
        },
    )
    version = bundle.save(layout.policy)
    elapsed_s = time.perf_counter() - started
    say(f"train: {version} in {elapsed_s:.0f} s, {_summary(trained.notes)} -> {layout.policy}")
    return RouterBundle.load(layout.policy)


def load_training_data(
    layout: RunLayout, config: TradewindConfig, parts: Mapping[str, Sequence[str]], folder: Path
) -> dict[str, OutcomeMatrix | LoggedFeedback]:
    """Return what the configured mode may learn from: the log alone, or the full table.

    Args:
        layout: the run.
        config: the whole configuration.
        parts: name -> splits.
        folder: existing one; the vectors of a log are mapped files below it.

    Raises:
        InputError: a table is missing, or a part holds nothing to learn from.
    """
    logged = config.train.mode == "logged"
    data: dict[str, OutcomeMatrix | LoggedFeedback] = {}
    if logged:
        data.update(stream_feedback(layout, config, load_pool(config), parts, folder))
    else:
        data.update({name: load_outcomes(layout, config, splits) for name, splits in parts.items()})
    for name, splits in parts.items():
        if len(data[name]) == 0:
            what = "scored event" if logged else "observed outcome"
            source = layout.feedback if logged else layout.outcomes
            raise InputError(
                f"{source}: no {what} among the {' and '.join(splits)} prompts; "
                "more prompts or another data.split is needed"
            )
    return data


def _summary(notes: dict) -> str:
    shown = [
        f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in notes.items()
    ]
    return ", ".join(shown)
