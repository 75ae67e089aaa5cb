"""Stage `evaluate`: is routing worth it, in distribution and on held-out tasks?

Everything is measured on prompts that every model of the pool answered. The policy decides greedily at each
setting of the dial, as batch routing does. The cost scale tau, the best single model per preference and the
settings of PerfGain and CostSave are fixed on training and validation prompts.

It ends in a verdict on the policy against ``evaluate.incumbent``, from the paired differences on those prompts. A
run that has a feedback log alone, or ``evaluate.log=PATH``, is evaluated off-policy (:mod:`pipeline.evaluate_log`);
``suite=llm_bandit`` runs the checks of :mod:`pipeline.llm_bandit_suite` instead.

Besides ``metrics.json`` and the report, ``tables/`` gets what is needed to check the figures elsewhere, for
``train``, ``test`` and ``ood``: ``SPLIT_outcomes.parquet`` (complete prompts: ``prompt_id``, ``model``,
``score``, ``cost`` in USD per call) and, but for ``train``, ``SPLIT_prompts.parquet`` (for batch routing) and
``SPLIT_decisions.parquet`` (what was scored).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline import evaluate_log, report
from pipeline.baselines import baseline_routers
from pipeline.calibration import calibration
from pipeline.config import TradewindConfig
from pipeline.console import progress, say
from pipeline.health import checks
from pipeline.join import load_feedback, load_outcomes, load_prompts
from pipeline.layout import RunLayout
from pipeline.llm_bandit_suite import suite
from pipeline.ope_check import check_estimators, check_lines
from pipeline.plain_json import plain, write_json
from pipeline.regret import losses
from pipeline.reporting.style import SPLIT_TITLES
from pipeline.routers import BEST_SINGLE, POLICY, Router, compared_routers, dial_probabilities
from pipeline.scoring import Yardstick, chosen_settings, score_split
from pipeline.splits import OOD, SPLITS, TEST, TRAIN, VALIDATION
from pipeline.tables import write_table
from pipeline.training import content_hash
from pipeline.training_evidence import training_evidence
from pipeline.verdicts import table_verdicts, verdict_lines
from policies.bundle import RouterBundle
from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.errors import InputError
from policies.preference import dial_grid
from policies.schemas import DECISIONS, PROMPTS

FORMAT_VERSION = 1

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
    if config.evaluate.suite is not None:
        return suite.run(config)
    if config.evaluate.log is not None or (layout.feedback.exists() and not layout.outcomes.exists()):
        return evaluate_log.run(config)
    bundle = RouterBundle.load(layout.need(layout.policy, "train"))
    data = _load(layout, config)
    complete = {name: matrix.complete() for name, matrix in data.items()}
    logged = config.train.mode == "logged" and layout.feedback.exists()
    log = load_feedback(layout, config, (TRAIN,)) if logged else None
    prompts = load_prompts(layout, (TEST, OOD))
    texts = dict(prompts.select("prompt_id", "prompt").iter_rows()) if config.evaluate.prompt_texts else None
    metrics = measure(bundle, data, complete, config, log, texts)
    metrics["training"] = plain(training_evidence(layout.history, bundle.policy, complete[TRAIN]))
    _write_evidence(layout, config, bundle, complete)
    write_json(layout.metrics, metrics)
    report.write(layout, metrics)
    say(report.console_table(metrics))
    for line in closing_lines(metrics):
        say(line)
    say(f"report: {layout.report}")
    return metrics


def measure(
    bundle: RouterBundle,
    data: Mapping[str, OutcomeMatrix],
    complete: Mapping[str, OutcomeMatrix],
    config: TradewindConfig,
    log: LoggedFeedback | None = None,
    texts: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return everything that ``metrics.json`` holds.

    Args:
        bundle: the artifact under test.
        data: prompts of each split that has any.
        complete: of these, the prompts that every model answered.
        config: of the run.
        log: training events of baselines that learn from a log; None simulates a uniform one.
        texts: prompt id -> text of held-out prompts; None leaves texts out.
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
    splits, predicted, lost = {}, {}, {}
    with progress(len(reported), "evaluate", "split") as bar:
        for name in reported:
            splits[name] = score_split(routers, complete[name], yardstick, settings)
            decided = dial_probabilities(routers[0], complete[name], yardstick.w_cost)
            predicted[name] = calibration(bundle, complete[name], decided)
            lost[name] = losses(
                complete[name],
                decided,
                yardstick,
                w_cost=config.evaluate.loss_w_cost,
                n_prompts=config.evaluate.loss_prompts,
                texts=texts,
            )
            bar.update()
    judged = table_verdicts(bundle, complete, config, tau_usd)
    checked = check_estimators(bundle, complete[reported[0]], config, tau_usd) if reported else None
    return plain(
        {
            "format_version": FORMAT_VERSION,
            "incumbent": judged["incumbent"],
            "verdict": judged["splits"].get(TEST),
            "verdicts": judged["splits"],
            "ope_check": checked,
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
            "calibration": predicted,
            "losses": lost,
            "health": checks(
                training,
                log,
                splits[reported[0]]["routers"][POLICY],
                propensity_floor=config.evaluate.propensity_floor,
                same_rows=_same_rows(bundle, data[TRAIN], log),
            ),
            "tau_usd": tau_usd,
            "w_cost": yardstick.w_cost.tolist(),
        }
    )


def _same_rows(bundle: RouterBundle, training: OutcomeMatrix, log: LoggedFeedback | None) -> bool | None:
    """Return whether a policy of this run learned from the training rows that the run has now; None where unknown."""
    seen = bundle.notes.get("train_sha256")
    logged = bundle.notes.get("mode") == "logged"
    if seen is None or (logged and log is None) or bundle.notes.get("trained_on", [TRAIN]) != [TRAIN]:
        return None
    return bool(seen == content_hash(log.scored() if logged and log is not None else training))


def closing_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return what the console says last: the check of the estimators, if asked for, and the verdicts."""
    lines = [] if metrics["ope_check"] is None else ["", *check_lines(metrics["ope_check"])]
    for split in (OOD, TEST):
        if split in metrics["verdicts"]:
            lines += ["", f"{SPLIT_TITLES[split]}:"]
            lines += verdict_lines(metrics["verdicts"][split], metrics["incumbent"], "prompts")
    return lines


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
