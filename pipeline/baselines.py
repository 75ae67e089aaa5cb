"""Baselines fitted on the data of a run, for comparison and for serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.config.baselines import FULL_TABLE_BASELINES, LOG_BASELINES
from pipeline.config.stages import SimulateConfig
from pipeline.console import progress
from pipeline.routers import Router
from pipeline.simulate import simulate_log
from policies.base import Policy
from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.errors import InputError
from policies.registry import policy_class

LABELS = {
    "knn": "kNN",
    "ridge": "ridge",
    "logistic": "logistic",
    "mlp": "MLP",
    "clusters": "clusters",
    "matrix_factorisation": "matrix factorisation",
    "carrot": "CARROT",
    "direct": "direct ridge (log)",
    "epsilon_greedy": "epsilon-greedy (log)",
    "linucb": "LinUCB (log)",
    "thompson": "Thompson (log)",
}

UNIFORM = SimulateConfig(
    logging_policy="uniform", epsilon=1.0, temperature=1.0, bundle=None, events_per_prompt=1
)


def baseline_routers(
    names: Sequence[str],
    training: OutcomeMatrix,
    log: LoggedFeedback | None,
    tau_usd: float,
    *,
    seed: int,
) -> list[Router]:
    """Return the named baselines, fitted with their default settings, as rows of the comparison.

    Args:
        names: kinds of ``FULL_TABLE_BASELINES`` and ``LOG_BASELINES``.
        training: completely observed training prompts.
        log: training events; None simulates one uniformly logged event a training prompt.
        tau_usd: cost scale in USD.
        seed: of that simulation.
    """
    if log is None and any(name in LOG_BASELINES for name in names):
        log = uniform_log(training, seed)
    routers = []
    with progress(len(names), "baselines", "router") as bar:
        for name in names:
            data = log if name in LOG_BASELINES else training
            assert data is not None
            routers.append(Router(name, LABELS[name], fit_baseline(name, data, tau_usd), "baseline"))
            bar.update()
    return routers


def fit_baseline(
    name: str,
    data: OutcomeMatrix | LoggedFeedback,
    tau_usd: float,
    settings: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
) -> Policy:
    """Return a baseline fitted to training data of either form.

    Args:
        name: of the policy's kind.
        data: a full table gives a log (one uniform event a prompt) to kinds that learn from logs.
        tau_usd: cost scale in USD.
        settings: keyword arguments of the kind's ``fit``; None takes its defaults.
        seed: of the simulated log.

    Raises:
        InputError: the kind needs a full table and is given a log, or nothing complete is observed.
    """
    if name in FULL_TABLE_BASELINES:
        if isinstance(data, LoggedFeedback):
            raise InputError(
                f"policy={name}: learns from every model's outcomes and train.mode=logged gives one an event; "
                f"allowed: train.mode=simulated_online, or policy={'|'.join(LOG_BASELINES)}"
            )
        data = data.complete()
        if len(data) == 0:
            raise InputError(
                f"policy={name}: no training prompt was answered by every model of the pool; a smaller pool may help"
            )
    elif isinstance(data, OutcomeMatrix):
        data = uniform_log(data, seed)
    return policy_class(name).fit(data, tau_usd, **(settings or {}))  # type: ignore[attr-defined]


def uniform_log(data: OutcomeMatrix, seed: int) -> LoggedFeedback:
    """Return one event a prompt, its model drawn uniformly from those with an outcome."""
    log = simulate_log(data, UNIFORM, seed=seed)
    row_of = {prompt_id: row for row, prompt_id in enumerate(data.prompt_ids.tolist())}
    column_of = {model: column for column, model in enumerate(data.pool.models)}
    visits = data.rows([row_of[prompt_id] for prompt_id in log["prompt_id"]])
    actions = np.array([column_of[model] for model in log["model"]])
    at = (np.arange(len(visits)), actions)
    return LoggedFeedback(
        event_ids=log["event_id"].to_numpy().astype(str),
        prompt_ids=visits.prompt_ids,
        tasks=visits.tasks,
        pool=data.pool,
        embeddings=visits.embeddings,
        prompt_tokens=visits.prompt_tokens,
        preferences=log.select("w_quality", "w_cost").to_numpy().astype(np.float32),
        eligible=np.isfinite(visits.costs_usd),
        actions=actions,
        propensities=log["propensity"].to_numpy(),
        scores=visits.scores[at],
        costs_usd=visits.costs_usd[at],
        completion_tokens=visits.completion_tokens[at],
    )
