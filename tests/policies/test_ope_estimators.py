"""Estimators against a full table, identities between them, diagnostics and refused input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import ope

seeds = st.integers(0, 10_000)


def table_log(seed, n=400, k=4, uniform=False):
    """A full reward table, a log drawn from it, a target and (wrong) predictions."""
    rng = np.random.default_rng(seed)
    table = rng.uniform(-1.0, 1.0, (n, k))
    behaviour = np.full((n, k), 1.0 / k) if uniform else rng.dirichlet(np.full(k, 5.0), n) * 0.8 + 0.2 / k
    actions = (rng.random((n, 1)) > behaviour.cumsum(axis=1)).sum(axis=1).clip(max=k - 1)
    at = np.arange(n)
    log = ope.LoggedBandit(actions, behaviour[at, actions], table[at, actions])
    target = rng.dirichlet(np.ones(k), n)
    return rng, table, behaviour, log, target, table + rng.normal(0.3, 0.5, (n, k))


@pytest.mark.parametrize("name", ["IPS", "DR", "SNIPS", "SNDR"])
def test_mean_over_many_logs_is_the_truth(name):
    rng, table, behaviour, _, target, r_hat = table_log(0)
    truth = (target * table).sum(axis=1).mean()
    at = np.arange(len(table))
    values = []
    for _ in range(400):
        actions = (rng.random((len(table), 1)) > behaviour.cumsum(axis=1)).sum(axis=1).clip(max=3)
        log = ope.LoggedBandit(actions, behaviour[at, actions], table[at, actions])
        values.append(ope.all_estimates(log, target, r_hat)[name].value)
    error = np.std(values) / np.sqrt(len(values))
    # Self-normalisation has a bias of order 1 / n, well below one standard error of a single log.
    allowance = 0.002 if name.startswith("SN") else 0.0
    assert abs(np.mean(values) - truth) < 4 * error + allowance


@given(seeds)
@settings(max_examples=25)
def test_every_contribution_array_averages_to_its_estimate(seed):
    *_, log, target, r_hat = table_log(seed)
    for estimate in ope.all_estimates(log, target, r_hat, clip=1.5, switch=1.5).values():
        assert estimate.contributions.shape == (len(log),)
        assert estimate.contributions.mean() == pytest.approx(estimate.value, abs=1e-12)


@given(seeds)
@settings(max_examples=25)
def test_doubly_robust_equals_direct_method_when_predictions_are_right(seed):
    _, table, _, log, target, _ = table_log(seed)
    direct = ope.direct_method(log, target, table)
    for estimator in (ope.doubly_robust, ope.self_normalised_doubly_robust, ope.switch_doubly_robust):
        assert estimator(log, target, table).value == pytest.approx(direct.value, abs=1e-12)
    assert direct.value == pytest.approx((target * table).sum(axis=1).mean(), abs=1e-12)


@given(seeds)
@settings(max_examples=25)
def test_doubly_robust_with_null_predictions_is_ips(seed):
    _, table, _, log, target, _ = table_log(seed)
    nothing = np.zeros_like(table)
    assert ope.doubly_robust(log, target, nothing).value == pytest.approx(
        ope.ips(log, target).value, abs=1e-12
    )
    sndr = ope.self_normalised_doubly_robust(log, target, nothing).value
    assert sndr == pytest.approx(ope.snips(log, target).value, abs=1e-12)


@given(seeds)
@settings(max_examples=25)
def test_switch_spans_direct_method_to_doubly_robust(seed):
    *_, log, target, r_hat = table_log(seed)
    low = ope.switch_doubly_robust(log, target, r_hat, switch=0.0).value
    high = ope.switch_doubly_robust(log, target, r_hat, switch=np.inf).value
    assert low == pytest.approx(ope.direct_method(log, target, r_hat).value, abs=1e-12)
    assert high == pytest.approx(ope.doubly_robust(log, target, r_hat).value, abs=1e-12)


def test_evaluating_the_logging_policy_is_the_mean_reward():
    _, _, behaviour, log, _, _ = table_log(2)
    assert ope.ips(log, behaviour).value == pytest.approx(log.rewards.mean(), abs=1e-12)
    assert ope.snips(log, behaviour).value == pytest.approx(log.rewards.mean(), abs=1e-12)


@given(seeds)
@settings(max_examples=25)
def test_snips_stays_within_the_rewards_and_shifts_with_them(seed):
    *_, log, target, _ = table_log(seed)
    value = ope.snips(log, target).value
    assert log.rewards.min() <= value <= log.rewards.max()
    shifted = ope.LoggedBandit(log.actions, log.propensities, log.rewards + 3.0)
    assert ope.snips(shifted, target).value == pytest.approx(value + 3.0, abs=1e-9)


@given(seeds)
@settings(max_examples=25)
def test_clipping_only_bites_above_the_largest_weight(seed):
    *_, log, target, _ = table_log(seed)
    largest = log.weights(target).max()
    assert ope.clipped_ips(log, target, clip=largest).value == ope.ips(log, target).value
    positive = ope.LoggedBandit(log.actions, log.propensities, np.abs(log.rewards))
    assert ope.clipped_ips(positive, target, clip=largest / 2).value < ope.ips(positive, target).value


def test_self_normalised_estimates_of_an_untouched_policy_are_refused():
    log = ope.LoggedBandit(np.zeros(3, dtype=int), np.full(3, 0.5), np.ones(3))
    target = np.tile([0.0, 1.0], (3, 1))
    with pytest.raises(ValueError, match="never takes a logged action"):
        ope.snips(log, target)
    assert "SNIPS" not in ope.all_estimates(log, target, np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensities": np.array([0.5, 0.0])}, r"propensities at event 1 is 0.0: must lie in \(0, 1\]"),
        ({"propensities": np.array([0.5, 1.5])}, "propensities at event 1"),
        ({"rewards": np.array([np.nan, 1.0])}, "rewards at event 0 is nan: .*drop events"),
        ({"actions": np.array([0, -1])}, ">= 0"),
        ({"actions": np.array([0.0, 1.0])}, "integers"),
        ({"rewards": np.ones(3)}, "one shape"),
    ],
)
def test_malformed_logs_are_refused(change, message):
    fields = {"actions": np.array([0, 1]), "propensities": np.full(2, 0.5), "rewards": np.ones(2)}
    with pytest.raises(ValueError, match=message):
        ope.LoggedBandit(**(fields | change))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (np.full((2, 2), 0.4), "sum to 1"),
        (np.full((3, 2), 0.5), "expected"),
        (np.ones((2, 1)), "beyond the target's 1 models"),
    ],
)
def test_malformed_targets_are_refused(target, message):
    log = ope.LoggedBandit(np.array([0, 1]), np.full(2, 0.5), np.ones(2))
    with pytest.raises(ValueError, match=message):
        ope.ips(log, target)


def test_scores_and_costs_of_a_log_are_checked():
    with pytest.raises(ValueError, match=r"scores at event 1 is 1.2"):
        ope.LoggedOutcomes(np.array([0, 1]), np.full(2, 0.5), np.array([1.0, 1.2]), np.zeros(2))
    with pytest.raises(ValueError, match="costs_usd at event 0"):
        ope.LoggedOutcomes(np.array([0, 1]), np.full(2, 0.5), np.ones(2), np.array([-1.0, 0.0]))


def test_one_log_answers_for_every_preference():
    log = ope.LoggedOutcomes(np.array([0, 1]), np.full(2, 0.5), np.array([1.0, 0.0]), np.array([0.1, 0.4]))
    np.testing.assert_allclose(log.at_preference(0.0, 0.2).rewards, [1.0, 0.0])
    np.testing.assert_allclose(log.at_preference(1.0, 0.2).rewards, [-0.5, -1.0])


@given(seeds)
@settings(max_examples=25)
def test_effective_sample_size_is_bounded_and_scale_free(seed):
    weights = np.random.default_rng(seed).exponential(size=50)
    size = ope.effective_sample_size(weights)
    assert 1.0 <= size <= 50.0
    assert ope.effective_sample_size(weights * 7.0) == pytest.approx(size)


def test_diagnostics_of_the_logging_policy_are_perfect():
    _, _, behaviour, log, _, _ = table_log(1)
    found = ope.diagnose(log, behaviour)
    assert found.ess == pytest.approx(len(log))
    assert found.mean_weight == pytest.approx(1.0)
    assert found.share_never_taken == 0.0


def test_diagnostics_show_missing_support():
    n = 100
    log = ope.LoggedBandit(np.arange(n) % 2, np.full(n, 0.5), np.ones(n))
    found = ope.diagnose(log, np.tile([0.2, 0.0, 0.8], (n, 1)), propensity_floor=0.6)
    assert found.unsupported_mass == pytest.approx(0.8)
    assert found.mean_weight == pytest.approx(0.2)
    assert found.share_never_taken == 0.5
    assert found.share_below_floor == 1.0
