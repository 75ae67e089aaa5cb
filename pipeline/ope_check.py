"""How far off-policy estimates are from a truth that is known: simulated logs of completely observed prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.config import TradewindConfig
from pipeline.console import progress
from pipeline.evaluate_log import decisions
from pipeline.join import feedback_arrays
from pipeline.simulate import simulate_log
from pipeline.tables import conform, to_polars
from pipeline.verdicts import aligned
from policies import ope
from policies.bundle import RouterBundle
from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.preference import dial_grid, preferences_from_w_cost, reward
from policies.schemas import FEEDBACK

DIAL_STRIDE = 5
"""Settings w_cost = 0, 0.25 .. 1: as telling as all of them."""


def check_estimators(
    bundle: RouterBundle, complete: OutcomeMatrix, config: TradewindConfig, tau_usd: float
) -> dict[str, Any] | None:
    """Return each estimator's mean relative error and the coverage of its 95 % interval; None when not asked for.

    ``evaluate.ope_check`` logs are drawn as ``simulate`` says, each of as many prompts as there are, drawn with
    replacement: the prompts at hand are the population whose value is the truth. Errors are averaged over logs and
    dial settings and divided by the mean size of the truth, which itself passes through zero along the dial.

    Args:
        bundle: the policy whose value is estimated.
        complete: prompts that every model answered.
        config: ``evaluate.ope_check``, ``simulate`` and ``run.seed`` are read.
        tau_usd: cost scale in USD.
    """
    n_logs = config.evaluate.ope_check
    if n_logs == 0:
        return None
    settings = dial_grid()[::DIAL_STRIDE]
    truth = _truth(bundle, complete, settings, tau_usd)
    rng = np.random.default_rng(config.run.seed)
    errors: dict[str, list[float]] = {}
    covered: dict[str, list[bool]] = {}
    with progress(n_logs, "check of the estimators", "log") as bar:
        for seed in range(n_logs):
            drawn = rng.integers(len(complete), size=len(complete))
            events = _simulated(complete, drawn, config, seed)
            _, groups = np.unique(events.prompt_ids, return_inverse=True)
            outcomes = ope.LoggedOutcomes(
                events.actions, events.propensities, events.scores, events.costs_usd
            )
            predictions = ope.cross_fit_outcomes(
                events.embeddings, events.actions, events.scores, events.costs_usd, groups,
                len(bundle.pool.models), cost_cap_usd=tau_usd, seed=seed,
            )  # fmt: skip
            for policy, w, value in zip(decisions(bundle.policy, events, settings), settings, truth):
                found = ope.all_estimates(
                    outcomes.at_preference(float(w), tau_usd),
                    policy,
                    predictions.rewards(float(w), tau_usd),
                    clip=config.evaluate.clip,
                    switch=config.evaluate.switch,
                )
                for name, estimate in found.items():
                    low, high = ope.normal_interval(estimate.contributions, 0.95, groups)
                    errors.setdefault(name, []).append(abs(estimate.value - value))
                    covered.setdefault(name, []).append(low <= value <= high)
            bar.update()
    scale = float(np.abs(truth).mean())
    return {
        "n_logs": n_logs,
        "n_events": len(complete) * config.simulate.events_per_prompt,
        "logging_policy": config.simulate.logging_policy,
        "w_cost": settings.tolist(),
        "truth": truth.tolist(),
        "estimators": {
            name: {
                "relative_error": float(np.mean(errors[name])) / scale if scale > 0.0 else None,
                "absolute_error": float(np.mean(errors[name])),
                "coverage_95": float(np.mean(covered[name])),
            }
            for name in errors
        },
    }


def check_lines(check: Mapping[str, Any]) -> list[str]:
    """Return the check as a plain table."""
    rows = [("estimator", "relative error", "absolute error", "coverage of 95 % interval")]
    for name, body in check["estimators"].items():
        relative = "n/a" if body["relative_error"] is None else f"{body['relative_error']:.2%}"
        rows.append((name, relative, f"{body['absolute_error']:.4f}", f"{body['coverage_95']:.1%}"))
    title = (
        f"off-policy estimates of the policy against the known truth, {check['n_logs']} logs of "
        f"{check['n_events']:,} events simulated by '{check['logging_policy']}':"
    )
    return [title, *aligned(rows)]


def _truth(
    bundle: RouterBundle, complete: OutcomeMatrix, settings: npt.NDArray[np.float64], tau_usd: float
) -> npt.NDArray[np.float64]:
    n = len(complete)
    values = []
    dial = preferences_from_w_cost(settings)
    given = bundle.policy.over_dial(complete.embeddings, dial, prompt_tokens=complete.prompt_tokens)
    for w, probabilities in zip(settings, given):
        at = (np.arange(n), probabilities.argmax(axis=1))
        exact = np.broadcast_to([1.0 - w, w], (n, 2))
        values.append(reward(complete.scores[at], complete.costs_usd[at], exact, tau_usd).mean())
    return np.array(values)


def _simulated(
    complete: OutcomeMatrix, drawn: npt.NDArray[np.int64], config: TradewindConfig, seed: int
) -> LoggedFeedback:
    drawn_log = simulate_log(complete.rows(drawn), config.simulate, seed=seed)
    log = to_polars(conform(FEEDBACK, drawn_log.to_arrow(), "simulated log"))
    row_of = {prompt_id: row for row, prompt_id in enumerate(complete.prompt_ids.tolist())}
    rows = np.array([row_of[prompt_id] for prompt_id in log["prompt_id"]])
    # The vectors and lengths of the simulated prompts are known; texts are not needed again.
    log = log.with_columns(prompt=pl.lit(""), task=pl.Series(complete.tasks[rows].astype(str)))
    events = feedback_arrays(log, complete.pool, complete.embeddings[rows], "simulated log")
    return replace(events, prompt_tokens=complete.prompt_tokens[rows])
