from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.bundle import EncoderIdentity, RouterBundle, TrainingMeans
from policies.constants import BestSinglePolicy
from policies.costs import CostModel
from policies.pool import ModelPool, ModelSpec
from serve.decider import Decider
from serve.journal.records import SessionTurn
from serve.question import Constraints
from serve.sessions import Stay, stay_of
from serve.settings.decision import ExplorationSettings, SessionSettings
from tests.policies.test_outcome_model_row import a_policy

NOW = datetime(2025, 1, 1, tzinfo=UTC)
SETTINGS = SessionSettings(ttl_s=300, cached_token_discount=0.5, min_gain=0.01)
POOL = ModelPool("five", tuple(ModelSpec(f"m{k}", 2.0, 8.0) for k in range(5)))
BUNDLE = RouterBundle(
    policy=a_policy(),
    pool=POOL,
    encoder=EncoderIdentity("e", "w", "b", 24),
    cost_model=CostModel(POOL.prices_per_token_usd, 50.0, np.full(5, 0.001)),
    tau_usd=0.02,
)
EMBEDDING = np.full(24, 0.2, dtype=np.float32)
W = (0.6, 0.4)
JUDGED = BUNDLE.policy.judge(EMBEDDING, W, 1000.0)
assert JUDGED is not None
VALUES = JUDGED.values
BEST, SECOND = (f"m{k}" for k in np.argsort(-VALUES)[:2])


def turn(seconds_ago: float = 1.0, tokens: int = 800) -> SessionTurn:
    return SessionTurn(SECOND, NOW - timedelta(seconds=seconds_ago), tokens)


def decide(stay, **more):
    return Decider(BUNDLE, rng=np.random.default_rng(0), **more.pop("made", {})).decide(
        EMBEDDING, W, prompt_tokens=1000.0, stay=stay, **more
    )


def test_a_first_turn_has_nothing_to_stay_with():
    assert stay_of(None, 10, NOW, SETTINGS) is None


@pytest.mark.parametrize(("seconds_ago", "stays"), [(299, True), (301, False)])
def test_the_cache_is_gone_after_its_time(seconds_ago, stays):
    assert (stay_of(turn(seconds_ago), 1000, NOW, SETTINGS) is not None) == stays


def test_sticking_can_be_switched_off():
    assert stay_of(turn(), 1000, NOW, SETTINGS.model_copy(update={"sticky": False})) is None


@given(before=st.integers(0, 5000), now=st.integers(1, 5000))
def test_no_more_is_cached_than_was_sent_or_is_sent_again(before, now):
    assert stay_of(turn(tokens=before), now, NOW, SETTINGS).cached_tokens == min(before, now)


@given(tokens=st.integers(0, 10**7), w_cost=st.floats(0, 1))
def test_the_worth_of_staying_is_the_discount_in_units_of_the_reward(tokens, w_cost):
    stay = Stay("m", tokens, 0.01, 0.5)
    assert stay.worth(2e-6, w_cost, 0.02) == pytest.approx(0.01 + w_cost * min(tokens * 1e-6 / 0.02, 1.0))


def test_a_session_stays_exactly_while_the_gain_is_below_the_worth():
    gain = float(VALUES.max() - VALUES[int(SECOND[1:])])
    price, w_cost, tau = 2e-6, 0.4, 0.02
    enough = gain / (w_cost * price / tau)  # tokens whose discount equals the gain
    for tokens, model in ((enough * 1.01, SECOND), (enough * 0.99, BEST)):
        decision = decide(Stay(SECOND, tokens, 0.0, 1.0))
        assert decision.model == model
        assert decision.kept == (model == SECOND)
        assert decision.propensity == 1.0


def test_staying_where_the_policy_goes_anyway_is_not_told():
    assert not decide(Stay(BEST, 1000, 0.0, 1.0)).kept


def test_a_model_that_is_ruled_out_is_left():
    stay = Stay(SECOND, 10**9, 1.0, 1.0)
    assert decide(stay, constraints=Constraints(exclude=(SECOND,))).model == BEST
    assert decide(stay, unhealthy={SECOND: "down"}).model == BEST


def test_a_model_that_left_the_pool_is_left():
    assert decide(Stay("gone", 10**9, 1.0, 1.0)).model == BEST


def test_exploration_in_a_session_starts_from_the_kept_model():
    made = {"exploration": ExplorationSettings(kind="epsilon", epsilon=0.5)}
    stay = Stay(SECOND, 10**9, 1.0, 1.0)
    assert decide(stay, explore=False, made=made).propensity == 1.0
    found = {}
    decider = Decider(BUNDLE, rng=np.random.default_rng(0), **made)
    for _ in range(200):
        d = decider.decide(EMBEDDING, W, prompt_tokens=1000.0, stay=stay)
        found[d.model] = d.propensity
    assert found == pytest.approx({f"m{k}": 0.6 if f"m{k}" == SECOND else 0.1 for k in range(5)})


def test_predictions_of_the_policy_are_told():
    decision = decide(None)
    judged = BUNDLE.policy.judge(EMBEDDING, W, 1000.0)
    assert list(decision.expected_scores.values()) == judged.scores.tolist()
    assert list(decision.expected_costs_usd.values()) == judged.costs_usd.tolist()
    assert decision.expected_latencies_s == dict.fromkeys(POOL.models)


def test_always_best_is_the_best_in_training_among_the_eligible():
    means = TrainingMeans((0.1, 0.9, 0.5, None, 0.2), (1.0, 2.0, None, 4.0, 5.0))
    decider = Decider(dataclasses.replace(BUNDLE, training_means=means))
    decision = decider.decide(EMBEDDING, W, prompt_tokens=1000.0)
    assert decision.best_cost_usd == decision.expected_costs_usd["m1"]
    assert decision.expected_latencies_s["m3"] == 4.0
    assert decision.expected_latencies_s["m2"] is None
    without = decider.decide(EMBEDDING, W, prompt_tokens=1000.0, constraints=Constraints(exclude=("m1",)))
    assert without.best_cost_usd == without.expected_costs_usd["m2"]


def test_a_policy_without_values_stays_while_the_cache_lives():
    policy = BestSinglePolicy(POOL.models, np.array([0.9, 0.1, 0.1, 0.1, 0.1]), np.full(5, 0.1))
    decider = Decider(dataclasses.replace(BUNDLE, policy=policy))
    decision = decider.decide(EMBEDDING, W, prompt_tokens=10.0, stay=Stay("m3", 0, 0.0, 0.0))
    assert (decision.model, decision.kept, decision.expected_scores) == ("m3", True, None)
