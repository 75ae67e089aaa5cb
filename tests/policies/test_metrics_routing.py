"""Rewards, comparisons with fixed models and the oracle, dial health, the summary and its intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import metrics
from policies.preference import default_tau_usd, dial_grid

W = dial_grid()


def world(seed, n=60, k=4):
    rng = np.random.default_rng(seed)
    scores = (rng.random((n, k)) < rng.uniform(0.3, 0.8, k)).astype(float)
    costs = rng.lognormal(np.linspace(-9.0, -7.0, k), 0.3, (n, k))
    return rng, scores, costs, default_tau_usd(costs)


def random_router(rng, n, k):
    return rng.dirichlet(np.ones(k), size=(len(W), n))


seeds = st.integers(0, 10_000)


@given(seeds)
@settings(max_examples=30)
def test_no_router_beats_the_oracle_at_any_setting(seed):
    rng, q, c, tau = world(seed)
    router = metrics.mean_rewards(random_router(rng, *q.shape), q, c, W, tau)
    assert (router <= metrics.oracle_rewards(q, c, W, tau) + 1e-12).all()


@given(seeds)
@settings(max_examples=20)
def test_oracle_choices_earn_the_oracle_rewards(seed):
    _, q, c, tau = world(seed)
    p = metrics.one_hot(metrics.oracle_choices(q, c, W, tau), q.shape[1])
    np.testing.assert_allclose(
        metrics.mean_rewards(p, q, c, W, tau), metrics.oracle_rewards(q, c, W, tau), atol=1e-12
    )


@given(seeds)
@settings(max_examples=20)
def test_best_single_is_the_best_constant_on_its_own_split(seed):
    _, q, c, tau = world(seed)
    best = metrics.best_single_choices(q, c, W, tau)
    earned = metrics.single_model_rewards(best, q, c, W, tau)
    for model in range(q.shape[1]):
        constant = metrics.one_hot(np.full((len(W), len(q)), model), q.shape[1])
        assert (earned >= metrics.mean_rewards(constant, q, c, W, tau) - 1e-12).all()


def test_a_constant_router_has_its_models_rewards_and_points():
    _, q, c, tau = world(3)
    constant = metrics.one_hot(np.full((len(W), len(q)), 2), q.shape[1])
    expected = metrics.single_model_rewards(np.full(len(W), 2), q, c, W, tau)
    np.testing.assert_allclose(metrics.mean_rewards(constant, q, c, W, tau), expected, atol=1e-12)
    points = metrics.dial_points(constant, q, c)
    np.testing.assert_allclose(points.quality, q[:, 2].mean())
    np.testing.assert_allclose(points.cost_usd, c[:, 2].mean())


def test_mean_reward_by_hand():
    q, c = np.array([[1.0, 0.0]]), np.array([[0.5, 0.1]])
    p = np.array([[[0.25, 0.75]], [[0.0, 1.0]]])
    # w = 0: 0.25 * 1; w = 1: the cheap model at 0.1 / 0.2.
    assert metrics.mean_rewards(p, q, c, np.array([0.0, 1.0]), 0.2) == pytest.approx([0.25, -0.5])


def test_gap_closed_is_zero_for_best_single_and_one_for_the_oracle():
    assert metrics.gap_closed(0.4, 0.4, 0.6) == 0.0
    assert metrics.gap_closed(0.6, 0.4, 0.6) == 1.0
    assert np.isnan(metrics.gap_closed(0.4, 0.4, 0.4))


def test_regret_is_the_mean_shortfall():
    assert metrics.regret(np.array([0.1, 0.3]), np.array([0.2, 0.5])) == pytest.approx(0.15)


@pytest.mark.parametrize("which", ["scores", "costs_usd"])
def test_missing_outcomes_are_refused_by_name(which):
    _, q, c, _ = world(0)
    table = {"scores": q, "costs_usd": c}
    table[which][4, 1] = np.nan
    with pytest.raises(ValueError, match=rf"{which} at \(4, 1\) is NaN .*drop prompts"):
        metrics.dial_points(np.full((1, *q.shape), 0.25), **table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p * 0.5, "sum to"),
        (lambda p: p[:, :-1], "expected"),
        (lambda p: np.where(p == p.max(), np.nan, p), "NaN"),
        (lambda p: p - 0.5, r"must lie in \[0, 1"),
    ],
)
def test_malformed_probabilities_are_refused(change, message):
    rng, q, c, _ = world(0)
    with pytest.raises(ValueError, match=message):
        metrics.dial_points(change(random_router(rng, *q.shape)), q, c)


def test_scores_above_one_are_refused():
    _, q, c, _ = world(0)
    q[2, 0] = 1.2
    with pytest.raises(ValueError, match=r"scores at \(2, 0\) is 1.2"):
        metrics.dial_points(np.full((1, *q.shape), 0.25), q, c)


def test_a_falling_dial_is_refused():
    rng, q, c, tau = world(0)
    with pytest.raises(ValueError, match="strictly increasing"):
        metrics.mean_rewards(random_router(rng, *q.shape), q, c, W[::-1], tau)


def test_perf_gain_and_cost_save_use_the_validation_choice():
    validation_quality = np.array([0.8, 0.7, 0.5])
    validation_cost = np.array([3.0, 2.0, 1.0])
    best = metrics.perf_gain_setting(validation_quality)
    cheap = metrics.cost_save_setting(validation_quality, validation_cost, 0.65)
    assert (best, cheap) == (0, 1)
    assert metrics.perf_gain(np.array([0.6, 0.9, 0.9]), 0.5, best) == pytest.approx(0.2)
    assert metrics.cost_save(np.array([9.0, 1.0, 0.0]), 4.0, cheap) == pytest.approx(0.75)


def test_cost_save_is_none_when_quality_is_never_reached():
    setting = metrics.cost_save_setting(np.array([0.1]), np.array([1.0]), 0.5)
    assert setting is None
    assert metrics.cost_save(np.array([1.0]), 2.0, setting) is None


def test_cost_rise_is_zero_for_a_monotone_dial_and_relative_otherwise():
    assert metrics.max_cost_rise(np.array([3.0, 2.0, 2.0]), 4.0) == 0.0
    assert metrics.max_cost_rise(np.array([3.0, 1.0, 2.0]), 4.0) == pytest.approx(0.25)


def test_dead_dial_share_counts_steps_without_change():
    p = metrics.one_hot(np.array([[0, 0], [0, 0], [0, 1], [1, 1], [1, 1]]), 2)
    assert metrics.dead_dial_share(p) == 0.5


@given(seeds)
@settings(max_examples=20)
def test_shares_sum_to_one_and_entropy_is_bounded(seed):
    rng, q, _, _ = world(seed)
    shares = metrics.action_shares(random_router(rng, *q.shape))
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    entropy = metrics.action_entropy(shares)
    assert ((entropy >= 0.0) & (entropy <= 1.0 + 1e-12)).all()


def test_entropy_tells_collapse_from_even_use():
    assert metrics.action_entropy(np.array([1.0, 0.0, 0.0])) == 0.0
    assert metrics.action_entropy(np.full(3, 1 / 3)) == pytest.approx(1.0)


def summary(seed=1, **kwargs):
    rng, q, c, tau = world(seed, n=200)
    best = metrics.best_single_choices(q, c, W, tau)
    p = random_router(rng, *q.shape)
    return metrics.score_router(p, q, c, w_cost=W, tau_usd=tau, best_single=best, **kwargs), (
        p,
        q,
        c,
        tau,
        best,
    )


def test_summary_agrees_with_the_single_functions():
    score, (p, q, c, tau, best) = summary()
    points = metrics.dial_points(p, q, c)
    assert score.mean_reward == pytest.approx(metrics.mean_reward(p, q, c, W, tau), abs=1e-12)
    assert score.aiq == metrics.aiq(points.cost_usd, points.quality, c.mean(0), q.mean(0))
    assert score.gain_over_best_single == pytest.approx(
        score.mean_reward - metrics.single_model_rewards(best, q, c, W, tau).mean(), abs=1e-12
    )
    assert score.regret_to_oracle == pytest.approx(score.oracle_mean_reward - score.mean_reward, abs=1e-12)
    assert score.perf_gain is None
    assert score.intervals == {}


def test_summary_measures_the_settings_chosen_elsewhere():
    _, (p, q, c, tau, best) = summary()
    chosen = metrics.choose_settings(p[:, :100], q[:100], c[:100], best_single_model=3)
    score = metrics.score_router(
        p[:, 100:], q[100:], c[100:], w_cost=W, tau_usd=tau, best_single=best, settings=chosen
    )
    bar = q[100:, 3].mean()
    assert score.perf_gain == pytest.approx((score.quality[chosen.perf_gain_setting] - bar) / bar)


def test_intervals_hold_the_estimate_and_repeat_with_the_seed():
    score, _ = summary(n_resamples=200, seed=4)
    for name in ("mean_reward", "aiq", "gap_closed"):
        low, high = score.intervals[name]
        assert low < high
        assert low <= getattr(score, name) <= high
    assert summary(n_resamples=200, seed=4)[0].intervals == score.intervals


def test_interval_width_of_a_mean_is_that_of_the_central_limit():
    score, (p, q, c, tau, _) = summary(n_resamples=2000)
    per_prompt = np.mean([(p[s] * metrics.rewards_at(q, c, w, tau)).sum(1) for s, w in enumerate(W)], axis=0)
    low, high = score.intervals["mean_reward"]
    assert high - low == pytest.approx(2 * 1.96 * per_prompt.std() / np.sqrt(len(per_prompt)), rel=0.1)
