"""Stage `evaluate`: is routing worth it, in distribution and on held-out tasks?

Everything is measured on prompts that every model of the pool answered. The policy decides greedily at each
setting of the dial, as batch routing does. The cost scale tau, the best single model per preference and the
settings of PerfGain and CostSave are fixed on training and validation prompts.

Besides ``metrics.json`` and the report, ``tables/`` gets what is needed to check the figures elsewhere, for
``train``, ``test`` and ``ood``: ``SPLIT_outcomes.parquet`` (complete prompts: ``prompt_id``, ``model``,
``score``, ``cost`` in USD per call) and, but for ``train``, ``SPLIT_prompts.parquet`` (for batch routing) and
``SPLIT_decisions.parquet`` (what was scored).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from policies.bundle import RouterBundle
from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.errors import InputError
from policies.preference import dial_grid
from policies.schemas import DECISIONS, PROMPTS

from pipeline import report
from pipeline.baselines import baseline_routers
from pipeline.config import TradewindConfig
from pipeline.console import progress, say
from pipeline.join import load_feedback, load_outcomes, load_prompts
from pipeline.layout import RunLayout
from pipeline.routers import BEST_SINGLE, POLICY, Router, compared_routers, dial_probabilities
from pipeline.scoring import Yardstick, chosen_settings, score_split
from pipeline.splits import OOD, SPLITS, TEST, TRAIN, VALIDATION
from pipeline.tables import write_table

FORMAT_VERSION = 1
SIGNIFICANT_DIGITS = 12
"""Kept in ``metrics.json``: beyond them sums differ between machines."""

NOISE = 1e-15
"""Smaller figures are what is left of a difference of equal sums, not a finding."""

HEADLINE = (
    "mean_reward", "gain_over_best_single", "gap_closed", "aiq", "aiq_over_mix_line", "perf_gain", "cost_save",
    "max_cost_rise",
)  # fmt: skip
"""The policy's figures that are repeated at the top of ``metrics.json`` and tracked over time."""


def run(config: TradewindConfig) -> dict[str, Any]:
    """Measure the run's policy on its held-out prompts, write ``metrics.json`` and the report, print a table.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        InputError: a stage before this one has not run, or no prompt of the training or test split was
            answered by every model of the pool.
    """
    layout = RunLayout.of(config)
    bundle = RouterBundle.load(layout.need(layout.policy, "train"))
    data = _load(layout, config)
    complete = {name: matrix.complete() for name, matrix in data.items()}
    logged = config.train.mode == "logged" and layout.feedback.exists()
    log = load_feedback(layout, config, (TRAIN,)) if logged else None
    metrics = measure(bundle, data, complete, config, log)
    _write_evidence(layout, config, bundle, complete)
    write_metrics(layout, metrics)
    report.write(layout, metrics)
    say(report.console_table(metrics))
    say(f"report: {layout.report}")
    return metrics


def measure(
    bundle: RouterBundle,
    data: Mapping[str, OutcomeMatrix],
    complete: Mapping[str, OutcomeMatrix],
    config: TradewindConfig,
    log: LoggedFeedback | None = None,
) -> dict[str, Any]:
    """Return everything that ``metrics.json`` holds.

    Args:
        bundle: the artifact under test.
        data: prompts of each split that has any.
        complete: of these, the prompts that every model answered.
        config: of the run.
        log: training events of baselines that learn from a log; None simulates a uniform one.
    """
    training = complete[TRAIN]
    tau_usd = config.train.tau_usd or _default_tau(training)
    yardstick = Yardstick.fit(
        training, dial_grid(), tau_usd, n_resamples=config.evaluate.bootstrap_samples, seed=config.run.seed
    )
    names = [name for name in config.evaluate.baselines if name != bundle.policy.kind]
    baselines = baseline_routers(names, training, log, tau_usd, seed=config.run.seed)
    routers = compared_routers(bundle, training, tau_usd, baselines)
    reported = [name for name in (TEST, OOD) if name in complete and len(complete[name])]
    settings = chosen_settings(routers, complete.get(VALIDATION), yardstick)
    splits = {}
    with progress(len(reported), "evaluate", "split") as bar:
        for name in reported:
            splits[name] = score_split(routers, complete[name], yardstick, settings)
            bar.update()
    return _plain(
        {
            "format_version": FORMAT_VERSION,
            "data": _describe(data, complete, config),
            "headline": {name: _headline(split) for name, split in splits.items()},
            "models": list(bundle.pool.models),
            "policy": {
                "kind": bundle.policy.kind,
                "version": bundle.policy_version,
                "encoder": bundle.encoder.name,
                "trained_with_tau_usd": bundle.tau_usd,
                "train_mode": config.train.mode,
                "seed": config.run.seed,
            },
            "splits": splits,
            "tau_usd": tau_usd,
            "w_cost": yardstick.w_cost.tolist(),
        }
    )


def write_metrics(layout: RunLayout, metrics: Mapping[str, Any]) -> None:
    """Write ``metrics.json``: strict JSON, keys sorted, the same bytes for the same figures."""
    staging = layout.metrics.with_name(layout.metrics.name + ".tmp")
    staging.write_text(json.dumps(metrics, indent=1, sort_keys=True, allow_nan=False) + "\n")
    staging.replace(layout.metrics)


def decisions_table(router: Router, data: OutcomeMatrix, policy_version: str) -> pa.Table:
    """Return the router's decisions over the dial in the form that batch routing writes."""
    grid = dial_grid()
    models = np.array(data.pool.models)
    choice = dial_probabilities(router, data, grid).argmax(axis=2)
    n = len(data)
    columns = {
        "prompt_id": np.tile(data.prompt_ids, len(grid)),
        "w_cost": np.repeat(grid, n),
        "model": models[choice.ravel()],
        "probability": np.ones(n * len(grid)),
        "policy_version": np.full(n * len(grid), policy_version),
    }
    return pa.table(columns).cast(DECISIONS.schema)


def _load(layout: RunLayout, config: TradewindConfig) -> dict[str, OutcomeMatrix]:
    if not layout.outcomes.exists() and layout.feedback.exists():
        raise InputError(
            f"{layout.root}: holds a feedback log and no outcomes table; comparing every model needs "
            "data.outcomes=PATH"
        )
    present = set(pl.read_parquet(layout.need(layout.splits, "ingest"), columns=["split"])["split"].unique())
    data = {name: load_outcomes(layout, config, (name,)) for name in SPLITS if name in present}
    for name in (TRAIN, TEST):
        n = len(data[name]) if name in data else 0
        if n == 0 or not data[name].observed.all(axis=1).any():
            raise InputError(
                f"{layout.outcomes}: of {n} prompts of the split '{name}' none was answered by every model "
                f"of the pool '{config.pool.name}'; comparisons need such prompts (a smaller pool may help)"
            )
    return data


def _default_tau(training: OutcomeMatrix) -> float:
    try:
        return training.tau_usd()
    except ValueError as error:
        raise InputError(str(error)) from None


def _describe(
    data: Mapping[str, OutcomeMatrix], complete: Mapping[str, OutcomeMatrix], config: TradewindConfig
) -> dict[str, Any]:
    observed = np.concatenate([matrix.observed for matrix in data.values()])
    models = data[TRAIN].pool.models
    return {
        "source": config.data.source,
        "simulated_outcomes": config.data.source == "example",
        "pool": config.pool.name,
        "ood_tasks": list(config.data.ood_tasks),
        "splits": {
            name: {
                "n_prompts": len(matrix),
                "n_complete": len(complete[name]),
                "n_dropped_incomplete": len(matrix) - len(complete[name]),
                "tasks": dict(Counter(str(t) for t in complete[name].tasks if t)),
            }
            for name, matrix in data.items()
        },
        "observed_share": {model: float(observed[:, j].mean()) for j, model in enumerate(models)},
    }


def _headline(split: Mapping[str, Any]) -> dict[str, float | None]:
    policy = split["routers"][POLICY]
    return {
        **{name: policy[name] for name in HEADLINE},
        "best_single_mean_reward": split["routers"][BEST_SINGLE]["mean_reward"],
        "n_prompts": split["n_prompts"],
    }


def _write_evidence(
    layout: RunLayout, config: TradewindConfig, bundle: RouterBundle, complete: Mapping[str, OutcomeMatrix]
) -> None:
    folder = layout.outcomes.parent
    router = Router(POLICY, bundle.policy.kind, bundle.policy, "policy")
    for name in (TRAIN, TEST, OOD):
        data = complete.get(name)
        if data is None or len(data) == 0:
            for kind in ("outcomes", "prompts", "decisions"):
                (folder / f"{name}_{kind}.parquet").unlink(missing_ok=True)
            continue
        write_table(_outcomes_table(data), str(folder / f"{name}_outcomes.parquet"))
        if name == TRAIN:
            continue
        prompts = load_prompts(layout, (name,)).filter(pl.col("prompt_id").is_in(data.prompt_ids.tolist()))
        write_table(
            prompts.select(PROMPTS.schema.names).to_arrow().cast(PROMPTS.schema),
            str(folder / f"{name}_prompts.parquet"),
        )
        decisions = decisions_table(router, data, bundle.policy_version)
        write_table(decisions, str(folder / f"{name}_decisions.parquet"))


def _outcomes_table(data: OutcomeMatrix) -> pa.Table:
    models = np.array(data.pool.models)
    n, k = data.scores.shape
    return pa.table(
        {
            "prompt_id": pa.array(np.repeat(data.prompt_ids, k), pa.string()),
            "model": pa.array(np.tile(models, n), pa.string()),
            "score": data.scores.ravel(),
            "cost": data.costs_usd.ravel(),
        }
    )


def _plain(value: Any) -> Any:
    """Return JSON values in the file's order: rounded floats, None for what is undefined, lists for tuples."""
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool | str | int) or value is None:
        return value
    number = float(value)
    if abs(number) < NOISE:
        return 0.0
    return float(f"{number:.{SIGNIFICANT_DIGITS}g}") if math.isfinite(number) else None
