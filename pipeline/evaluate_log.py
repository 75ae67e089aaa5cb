"""Off-policy evaluation of the run's policy on a feedback log: what users have who never asked every model.

The policy decides greedily among the models that were eligible at each event, as batch routing does. Only events
that it was not trained on count (:mod:`pipeline.log_events`). The cost scale and the best single model per
preference come from the run's training data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import TradewindConfig
from pipeline.console import progress, say
from pipeline.incumbents import Incumbent, incumbent_of
from pipeline.join import load_outcomes
from pipeline.layout import RunLayout
from pipeline.log_events import EvaluationLog, load_evaluation_log, training_events
from pipeline.plain_json import plain, write_json
from pipeline.reporting import log_page
from pipeline.reporting.log_page import ESTIMATORS
from pipeline.splits import TRAIN
from pipeline.verdicts import segments_of, thresholds_of
from policies import ope
from policies.base import Policy, greedy
from policies.bundle import RouterBundle
from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.errors import InputError
from policies.preference import dial_grid, preferences_from_w_cost

FloatArray = npt.NDArray[np.float64]

FORMAT_VERSION = 1
SECTION = "log_evaluation"
"""Key of ``metrics.json``."""

LOGGED_ESTIMATE = "mean reward"


def run(config: TradewindConfig) -> dict[str, Any]:
    """Evaluate the run's policy on a log, write ``metrics.json`` and the report, print tables.

    Figures of a full table that ``metrics.json`` already holds are kept.

    Returns:
        The section ``log_evaluation``, whose ``verdict`` decides.

    Raises:
        InputError: a stage before this one has not run, or the log cannot be used.
    """
    layout = RunLayout.of(config)
    with progress(2, "evaluate", "step") as bar:
        section = evaluate_log(config)
        bar.update()
        metrics = _merged(layout, section)
        write_json(layout.metrics, metrics)
        page = layout.log_report if "splits" in metrics else layout.report
        log_page.write(page, section)
        bar.update()
    say(log_page.console_text(section))
    say(f"report: {page}")
    return section


def evaluate_log(config: TradewindConfig) -> dict[str, Any]:
    """Return what :func:`run` reports, and write nothing."""
    layout = RunLayout.of(config)
    bundle = RouterBundle.load(layout.need(layout.policy, "train"))
    if config.evaluate.ope_check:
        raise InputError(
            "evaluate.ope_check: needs a full outcome table, whose truth is known; allowed here: 0"
        )
    log = load_evaluation_log(layout, config, bundle)
    training = _training(layout, config, bundle)
    tau_usd = config.train.tau_usd or _tau(training)
    least = config.evaluate.verdict.min_action_events
    incumbent = incumbent_of(config.evaluate.incumbent, bundle, training, tau_usd, least)
    section: dict[str, Any] = plain(measure(bundle, incumbent, log, config, tau_usd))
    return section


def measure(
    bundle: RouterBundle, incumbent: Incumbent, log: EvaluationLog, config: TradewindConfig, tau_usd: float
) -> dict[str, Any]:
    """Return estimates, diagnostics and verdict, ready for JSON but for rounding.

    Args:
        bundle: the candidate.
        incumbent: what it must beat.
        log: usable events.
        config: ``evaluate`` and ``run.seed`` are read.
        tau_usd: cost scale in USD.
    """
    events, grid = log.events, dial_grid()
    outcomes = ope.LoggedOutcomes(events.actions, events.propensities, events.scores, events.costs_usd)
    predictions = ope.cross_fit_outcomes(
        events.embeddings, events.actions, events.scores, events.costs_usd, log.groups, len(bundle.pool.models),
        cost_cap_usd=tau_usd, seed=config.run.seed,
    )  # fmt: skip
    ours = decisions(bundle.policy, events, grid)
    theirs = None if incumbent.policy is None else decisions(incumbent.policy, events, grid)
    verdict = ope.judge(
        outcomes, ours, theirs, predictions, w_cost=grid, tau_usd=tau_usd, segments=segments_of(events.tasks),
        groups=log.groups, thresholds=thresholds_of(config.evaluate.verdict),
    )  # fmt: skip
    context = (outcomes, predictions, log.groups, config, tau_usd)
    logged = {LOGGED_ESTIMATE: np.stack([outcomes.at_preference(w, tau_usd).rewards for w in grid], axis=1)}
    return {
        "format_version": FORMAT_VERSION,
        "log": {
            "source": log.source,
            "notes": list(log.notes),
            "n_logged": log.n_logged,
            "n_trained_on": log.n_trained_on,
            "n_outside_pool": log.n_outside_pool,
            "n_without_outcome": log.n_without_outcome,
            "n_events": len(events),
            "n_prompts": int(np.unique(log.groups).size),
            "events_per_model": _per_model(events.actions, bundle),
            "eligible_share": dict(zip(bundle.pool.models, events.eligible.mean(axis=0).tolist())),
            "smallest_propensity": float(events.propensities.min()),
        },
        "candidate": {
            "label": f"{bundle.policy.kind} {bundle.policy_version}",
            **_estimates(ours, *context),
        },
        "incumbent": {
            "label": incumbent.label,
            **(
                _with_intervals(logged, log.groups, config)
                if theirs is None
                else _estimates(theirs, *context)
            ),
        },
        "tau_usd": tau_usd,
        "w_cost": grid.tolist(),
        "verdict": verdict.as_dict(),
    }


def decisions(policy: Policy, events: LoggedFeedback, w_cost: FloatArray) -> FloatArray:
    """Return the policy's greedy decisions among the eligible models, one-hot, shape (S, n, K)."""
    decided = np.empty((len(w_cost), len(events), len(events.pool.models)))
    given = policy.over_dial(
        events.embeddings,
        preferences_from_w_cost(w_cost),
        events.eligible,
        prompt_tokens=events.prompt_tokens,
    )
    for s, probabilities in enumerate(given):
        decided[s] = greedy(probabilities)
    return decided


def _estimates(
    policy: FloatArray,
    outcomes: ope.LoggedOutcomes,
    predictions: ope.OutcomePredictions,
    groups: npt.NDArray[np.str_],
    config: TradewindConfig,
    tau_usd: float,
) -> dict[str, Any]:
    settings = config.evaluate
    columns: dict[str, list[FloatArray]] = {}
    diagnostics: dict[str, list[float]] = {}
    for p, w in zip(policy, dial_grid()):
        view = outcomes.at_preference(float(w), tau_usd)
        found = ope.all_estimates(
            view, p, predictions.rewards(float(w), tau_usd), clip=settings.clip, switch=settings.switch
        )
        for name in ESTIMATORS:
            # Undefined at this setting: the policy takes none of the logged actions.
            missing = np.full(len(view), np.nan)
            columns.setdefault(name, []).append(found[name].contributions if name in found else missing)
        for key, value in (
            ope.diagnose(view, p, settings.propensity_floor, settings.verdict.min_action_events)
            .as_dict()
            .items()
        ):
            diagnostics.setdefault(key, []).append(value)
    tables = {name: np.stack(values, axis=1) for name, values in columns.items()}
    return {**_with_intervals(tables, groups, config), "diagnostics": diagnostics}


def _with_intervals(
    tables: Mapping[str, npt.NDArray[np.floating]], groups: npt.NDArray[np.str_], config: TradewindConfig
) -> dict[str, Any]:
    """Return per estimator its value at each setting and its mean over the dial, with 95 % bootstrap intervals."""
    wide = {name: np.column_stack([table, table.mean(axis=1)]) for name, table in tables.items()}
    stacked = np.concatenate(list(wide.values()), axis=1)
    bounds: list[list[float] | None] = [None] * stacked.shape[1]
    if config.evaluate.bootstrap_samples:
        bounds = ope.bootstrap_intervals(
            stacked, groups=groups, n_resamples=config.evaluate.bootstrap_samples, seed=config.run.seed
        ).tolist()
    estimates = {}
    for k, (name, table) in enumerate(wide.items()):
        values, own = table.mean(axis=0).tolist(), bounds[k * table.shape[1] : (k + 1) * table.shape[1]]
        estimates[name] = {
            "values": values[:-1],
            "intervals": own[:-1],
            "mean": values[-1],
            "mean_interval": own[-1],
        }
    return {"estimates": estimates}


def _training(
    layout: RunLayout, config: TradewindConfig, bundle: RouterBundle
) -> LoggedFeedback | OutcomeMatrix:
    if layout.outcomes.exists():
        complete = load_outcomes(layout, config, (TRAIN,)).complete()
        if len(complete):
            return complete
    return training_events(layout, bundle.pool)


def _tau(training: LoggedFeedback | OutcomeMatrix) -> float:
    try:
        return training.tau_usd()
    except ValueError as error:
        raise InputError(str(error)) from None


def _per_model(actions: npt.NDArray[np.int64], bundle: RouterBundle) -> dict[str, int]:
    counts = np.bincount(actions, minlength=len(bundle.pool.models))
    return dict(zip(bundle.pool.models, counts.tolist()))


def _merged(layout: RunLayout, section: dict[str, Any]) -> dict[str, Any]:
    held: dict[str, Any] = {}
    if layout.metrics.exists():
        body = json.loads(layout.metrics.read_text())
        held = body if "splits" in body else {}
    return {"format_version": FORMAT_VERSION, **held, SECTION: section}
