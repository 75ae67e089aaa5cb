"""Simulated logs: exact propensities, only what a deployment would have seen."""

import numpy as np
import pytest

from pipeline.compose import load_config
from pipeline.simulate import simulate_log
from policies.datasets import OutcomeMatrix
from policies.errors import InputError
from policies.pool import ModelPool, ModelSpec

POOL = ModelPool(
    "p", (ModelSpec("cheap", 0.1, 0.1), ModelSpec("mid", 1.0, 1.0), ModelSpec("dear", 10.0, 10.0))
)


@pytest.fixture
def outcomes():
    rng = np.random.default_rng(0)
    n = 4000
    costs = np.tile([1e-5, 1e-4, 1e-3], (n, 1))
    costs[:500, 2] = np.nan
    scores = np.where(np.isfinite(costs), (rng.random((n, 3)) < [0.3, 0.5, 0.8]).astype(float), np.nan)
    scores[500:600, 0] = np.nan
    return OutcomeMatrix(
        prompt_ids=np.array([f"p{i}" for i in range(n)]),
        tasks=np.array([""] * n),
        pool=POOL,
        embeddings=rng.standard_normal((n, 4)).astype(np.float32),
        prompt_tokens=np.full(n, 10.0),
        scores=scores,
        costs_usd=costs,
        completion_tokens=np.full((n, 3), 5.0),
    )


def config(**changes):
    return load_config([]).simulate.model_copy(update=changes)


@pytest.mark.parametrize("policy", ["uniform", "epsilon_greedy", "price_softmax"])
def test_propensity_is_the_frequency_of_the_action(outcomes, policy):
    log = simulate_log(outcomes, config(logging_policy=policy), seed=1)
    # The expectation of 1 / propensity over events that could call all three models counts those models.
    all_three = log.filter(log["eligible"].list.len() == 3)
    estimate = (1.0 / all_three["propensity"]).mean()
    assert estimate == pytest.approx(3.0, rel=0.15)


def test_model_without_a_row_is_never_eligible(outcomes):
    log = simulate_log(outcomes, config(), seed=1)
    absent = log.filter(log["prompt_id"].str.slice(1).cast(int) < 500)
    assert absent["eligible"].list.contains("dear").sum() == 0
    assert (absent["model"] == "dear").sum() == 0


def test_missing_score_stays_null(outcomes):
    log = simulate_log(outcomes, config(), seed=1)
    number = log["prompt_id"].str.slice(1).cast(int)
    missing = log.filter((number >= 500) & (number < 600) & (log["model"] == "cheap"))
    assert missing.height > 0
    assert missing["score"].null_count() == missing.height


def test_outcome_is_that_of_the_called_model(outcomes):
    log = simulate_log(outcomes, config(), seed=3)
    row = {p: i for i, p in enumerate(outcomes.prompt_ids)}
    for event in log.head(200).iter_rows(named=True):
        expected = outcomes.scores[row[event["prompt_id"]], POOL.models.index(event["model"])]
        assert event["score"] == expected or (event["score"] is None and np.isnan(expected))


def test_seed_repeats_and_another_seed_differs(outcomes):
    first, again, other = (simulate_log(outcomes, config(), seed=s) for s in (5, 5, 6))
    assert first.equals(again)
    assert not first["model"].equals(other["model"])


def test_events_per_prompt(outcomes):
    log = simulate_log(outcomes, config(events_per_prompt=3), seed=0)
    assert log.height == 3 * len(outcomes)
    assert log["event_id"].n_unique() == log.height


def test_price_softmax_prefers_cheap_models(outcomes):
    log = simulate_log(outcomes, config(logging_policy="price_softmax"), seed=0)
    share = {m: (log["model"] == m).mean() for m in POOL.models}
    assert share["cheap"] > share["mid"] > share["dear"]


def test_bundle_policy_needs_a_bundle(outcomes):
    with pytest.raises(InputError, match=r"simulate\.bundle is not set"):
        simulate_log(outcomes, config(logging_policy="bundle"), seed=0)
