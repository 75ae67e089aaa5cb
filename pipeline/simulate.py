"""Stage 3: a full outcome table to the partial-feedback log that a deployment would have kept."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.config import TradewindConfig
from pipeline.config.stages import SimulateConfig
from pipeline.console import say
from pipeline.join import load_outcomes
from pipeline.layout import RunLayout
from pipeline.splits import SPLITS
from pipeline.tables import conform, write_table
from policies.base import greedy, masked_softmax
from policies.bundle import RouterBundle
from policies.constants import BestSinglePolicy
from policies.datasets import OutcomeMatrix
from policies.errors import InputError
from policies.preference import preferences_from_w_cost
from policies.schemas import FEEDBACK

LOG_START = datetime(2026, 1, 1, tzinfo=UTC)
"""Time stamp of the first simulated event; one event a second follows."""


def run(config: TradewindConfig) -> None:
    """Write a feedback log of every prompt of the run to ``output``, or to the run's folder."""
    layout = RunLayout.of(config)
    log = simulate_log(load_outcomes(layout, config, SPLITS), config.simulate, seed=config.run.seed)
    target = config.output or str(layout.feedback)
    write_table(conform(FEEDBACK, log.to_arrow(), target), target)
    say(f"simulate: {log.height} events logged by '{config.simulate.logging_policy}' -> {target}")


def simulate_log(data: OutcomeMatrix, config: SimulateConfig, *, seed: int) -> pl.DataFrame:
    """Return ``events_per_prompt`` events a prompt with exact propensities, in random order of prompts.

    A preference is drawn uniformly from the simplex for each event. A model without a row in the table was
    not there to be called (not eligible); one whose score is missing may be called, and its score stays null.

    Raises:
        InputError: the logging policy needs what the table or the configuration does not give.
    """
    rng = np.random.default_rng(seed)
    visits = data.rows(rng.permutation(np.repeat(np.arange(len(data)), config.events_per_prompt)))
    n = len(visits)
    eligible = np.isfinite(visits.costs_usd)
    preferences = preferences_from_w_cost(rng.random(n))
    probabilities = _logging_probabilities(visits, data, config, preferences, eligible)
    actions = _draw(probabilities, rng)
    at = (np.arange(n), actions)
    models = np.array(data.pool.models, dtype=object)
    completion = visits.completion_tokens[at]
    return (
        pl.DataFrame(
            {
                "event_id": [_event_id(seed, i, p) for i, p in enumerate(visits.prompt_ids)],
                "timestamp": [LOG_START + timedelta(seconds=i) for i in range(n)],
                "prompt_id": visits.prompt_ids,
                "w_quality": preferences[:, 0].astype(np.float64),
                "w_cost": preferences[:, 1].astype(np.float64),
                "eligible": [models[row].tolist() for row in eligible],
                "model": models[actions].astype(str),
                "propensity": probabilities[at],
                "score": visits.scores[at],
                "cost_usd": visits.costs_usd[at],
                "prompt_tokens": visits.prompt_tokens.astype(np.int64),
                "completion_tokens": completion,
                "policy_version": [f"simulated-{config.logging_policy}"] * n,
            }
        )
        .with_columns(
            pl.col("score", "completion_tokens").fill_nan(None), pl.col("timestamp").dt.cast_time_unit("us")
        )
        .with_columns(pl.col("completion_tokens").cast(pl.Int64))
    )


def _logging_probabilities(
    visits: OutcomeMatrix,
    data: OutcomeMatrix,
    config: SimulateConfig,
    preferences: npt.NDArray[np.float32],
    eligible: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float64]:
    uniform = eligible / eligible.sum(axis=1, keepdims=True)
    if config.logging_policy == "uniform":
        return uniform
    if config.logging_policy == "price_softmax":
        prices = data.pool.prices_per_token_usd.mean(axis=1)
        if (prices <= 0).any():
            free = data.pool.models[int(np.argmin(prices))]
            raise InputError(
                f"simulate.logging_policy=price_softmax: model '{free}' is free; needs prices > 0"
            )
        logits = np.broadcast_to(-np.log10(prices) / config.temperature, eligible.shape)
        return masked_softmax(logits, eligible)
    chosen = greedy(_greedy_base(visits, data, config, preferences, eligible))
    return (1.0 - config.epsilon) * chosen + config.epsilon * uniform


def _greedy_base(
    visits: OutcomeMatrix,
    data: OutcomeMatrix,
    config: SimulateConfig,
    preferences: npt.NDArray[np.float32],
    eligible: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float64]:
    if config.logging_policy == "epsilon_greedy":
        known = data.complete()
        policy = BestSinglePolicy.fit(data.pool.models, known.scores, known.costs_usd, known.tau_usd())
        return policy.action_probabilities(visits.embeddings, preferences, eligible)
    if config.bundle is None:
        raise InputError(
            "simulate.bundle is not set; logging_policy=bundle needs the path of a policy artifact"
        )
    bundle = RouterBundle.load(Path(config.bundle))
    if bundle.pool.models != data.pool.models:
        raise InputError(f"simulate.bundle={config.bundle}: it routes over {', '.join(bundle.pool.models)}")
    return bundle.policy.action_probabilities(
        visits.embeddings, preferences, eligible, prompt_tokens=visits.prompt_tokens
    )


def _draw(probabilities: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    cumulative = probabilities.cumsum(axis=1)
    points = rng.random(len(probabilities)) * cumulative[:, -1]
    return (cumulative > points[:, None]).argmax(axis=1)


def _event_id(seed: int, position: int, prompt_id: str) -> str:
    return hashlib.blake2b(f"{seed}/{position}/{prompt_id}".encode(), digest_size=12).hexdigest()
