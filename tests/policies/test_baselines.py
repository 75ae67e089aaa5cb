"""What every baseline promises, and what single ones add."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from policies.baselines import knn
from policies.baselines.carrot import CarrotPolicy
from policies.baselines.clusters import ClusterPolicy
from policies.baselines.direct import DirectPolicy
from policies.baselines.knn import KnnPolicy, tuned_neighbours
from policies.baselines.linear_arms import (
    EpsilonGreedyPolicy,
    LinUcbPolicy,
    ThompsonPolicy,
    probability_of_best,
)
from policies.baselines.logistic import LogisticPolicy
from policies.baselines.matrix_factorisation import MatrixFactorisationPolicy
from policies.baselines.mlp import MlpPolicy
from policies.baselines.ridge import RidgePolicy
from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.errors import InputError
from policies.pool import ModelPool, ModelSpec
from policies.preference import preferences_from_w_cost
from policies.registry import policy_class

FULL_TABLE = (
    KnnPolicy,
    RidgePolicy,
    LogisticPolicy,
    MlpPolicy,
    ClusterPolicy,
    MatrixFactorisationPolicy,
    CarrotPolicy,
)
LOGGED = (DirectPolicy, EpsilonGreedyPolicy, LinUcbPolicy, ThompsonPolicy)
POOL = ModelPool(
    "three", (ModelSpec("right", 5.0, 5.0), ModelSpec("left", 5.0, 5.0), ModelSpec("cheap", 1.0, 1.0))
)
COSTS_USD = np.array([1e-3, 1e-3, 1e-4])


def world(n, seed):
    """Model "right" answers prompts on the right, "left" those on the left; "cheap" answers one in four."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    right = x[:, 0] > 0
    return OutcomeMatrix(
        prompt_ids=np.array([f"p{i}" for i in range(n)]),
        tasks=np.full(n, ""),
        pool=POOL,
        embeddings=x,
        prompt_tokens=rng.uniform(5.0, 50.0, size=n),
        scores=np.stack([right, ~right, rng.random(n) < 0.25], axis=1).astype(float),
        costs_usd=np.tile(COSTS_USD, (n, 1)),
        completion_tokens=np.full((n, 3), np.nan),
    )


def uniform_log(data, seed):
    n, k = data.scores.shape
    actions = np.random.default_rng(seed).integers(k, size=n)
    at = (np.arange(n), actions)
    return LoggedFeedback(
        event_ids=data.prompt_ids,
        prompt_ids=data.prompt_ids,
        tasks=data.tasks,
        pool=data.pool,
        embeddings=data.embeddings,
        prompt_tokens=data.prompt_tokens,
        preferences=preferences_from_w_cost(0.5, n),
        eligible=np.ones((n, k), dtype=bool),
        actions=actions,
        propensities=np.full(n, 1.0 / k),
        scores=data.scores[at],
        costs_usd=data.costs_usd[at],
        completion_tokens=data.completion_tokens[at],
    )


def fit(kind, n, seed):
    data = world(n, seed)
    return kind.fit(uniform_log(data, seed) if kind in LOGGED else data, 1e-3)


@pytest.fixture(scope="module", params=FULL_TABLE + LOGGED, ids=lambda c: c.kind)
def fitted(request):
    return fit(request.param, 1200, 0)


def test_quality_alone_calls_the_model_that_answers(fitted):
    test = world(300, 1)
    p = fitted.action_probabilities(test.embeddings, preferences_from_w_cost(0.0, 300))
    chosen = p.argmax(axis=1)
    assert test.scores[np.arange(300), chosen].mean() > 0.85


def test_cost_alone_calls_the_cheapest_model(fitted):
    p = fitted.action_probabilities(world(50, 2).embeddings, preferences_from_w_cost(1.0, 50))
    assert (p.argmax(axis=1) == 2).all()


def test_probabilities_sum_to_one_over_eligible_models(fitted):
    rng = np.random.default_rng(3)
    eligible = rng.random((200, 3)) < 0.6
    eligible[np.arange(200), rng.integers(3, size=200)] = True
    w = preferences_from_w_cost(rng.random(200))
    p = fitted.action_probabilities(world(200, 3).embeddings, w, eligible)
    np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-9)
    assert (p[~eligible] == 0.0).all()


def test_decisions_do_not_hang_on_the_company(fitted):
    test, w = world(40, 4), preferences_from_w_cost(np.linspace(0, 1, 40))
    together = fitted.action_probabilities(test.embeddings, w)
    alone = [fitted.action_probabilities(test.embeddings[i : i + 1], w[i : i + 1])[0] for i in range(40)]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_over_the_dial_it_decides_as_at_each_setting(fitted):
    x, dial = world(40, 4).embeddings, preferences_from_w_cost(np.linspace(0, 1, 5))
    eligible = np.random.default_rng(0).random((40, 3)) < 0.6
    eligible[:, 1] = True
    alone = [fitted.action_probabilities(x, np.tile(w, (40, 1)), eligible) for w in dial]
    np.testing.assert_array_equal(list(fitted.over_dial(x, dial, eligible)), alone)


def test_a_dial_of_costs_alone_is_refused(fitted):
    with pytest.raises(ValueError, match=r"dial has shape \(5,\), expected \(m, 2\)"):
        next(iter(fitted.over_dial(world(3, 4).embeddings, np.linspace(0, 1, 5))))


def test_no_prompts_give_no_rows(fitted):
    assert [p.shape for p in fitted.over_dial(np.zeros((0, 4), np.float32), np.eye(2))] == [(0, 3)] * 2
    p = fitted.action_probabilities(np.zeros((0, 4), np.float32), np.zeros((0, 2), np.float32))
    assert p.shape == (0, 3)


def test_wrong_shapes_are_refused(fitted):
    with pytest.raises(ValueError):
        fitted.action_probabilities(world(3, 0).embeddings, np.zeros((2, 2)))
    with pytest.raises(ValueError):
        fitted.action_probabilities(np.zeros((3, 7), np.float32), preferences_from_w_cost(0.5, 3))


def test_loaded_policy_decides_as_the_saved_one(fitted, tmp_path):
    fitted.save(tmp_path)
    again = policy_class(fitted.kind).load(tmp_path, fitted.models)
    x, w = world(60, 4).embeddings, preferences_from_w_cost(0.3, 60)
    np.testing.assert_array_equal(again.action_probabilities(x, w), fitted.action_probabilities(x, w))


def test_an_empty_folder_is_no_policy(fitted, tmp_path):
    with pytest.raises(InputError, match="missing; not a saved"):
        type(fitted).load(tmp_path, fitted.models)


@pytest.mark.parametrize("kind", FULL_TABLE + LOGGED, ids=lambda c: c.kind)
def test_fitting_twice_gives_the_same_decisions(kind):
    x, w = world(60, 7).embeddings, preferences_from_w_cost(0.3, 60)
    first, second = (fit(kind, 200, 5).action_probabilities(x, w) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("kind", FULL_TABLE + LOGGED, ids=lambda c: c.kind)
def test_a_handful_of_prompts_is_enough_to_fit(kind):
    p = fit(kind, 5, 5).action_probabilities(world(3, 6).embeddings, preferences_from_w_cost(0.5, 3))
    np.testing.assert_allclose(p.sum(axis=1), 1.0)


@pytest.mark.parametrize("kind", LOGGED, ids=lambda c: c.kind)
def test_events_without_an_outcome_teach_nothing(kind):
    log = uniform_log(world(300, 8), 8)
    late = log.rows(np.repeat(np.arange(300), 2))
    late.scores[1::2] = np.nan
    x, w = world(60, 9).embeddings, preferences_from_w_cost(0.3, 60)
    expected = kind.fit(log, 1e-3).action_probabilities(x, w)
    np.testing.assert_array_equal(kind.fit(late, 1e-3).action_probabilities(x, w), expected)


@pytest.mark.parametrize("kind", LOGGED, ids=lambda c: c.kind)
def test_a_log_without_outcomes_is_refused(kind):
    log = uniform_log(world(10, 8), 8)
    log.scores[:] = np.nan
    with pytest.raises(ValueError, match="none of 10 events has a score"):
        kind.fit(log, 1e-3)


@pytest.mark.parametrize("kind", LOGGED, ids=lambda c: c.kind)
def test_a_model_that_was_never_called_has_finite_predictions(kind):
    log = uniform_log(world(300, 8), 8)
    policy = kind.fit(log.rows(log.actions != 0), 1e-3)
    p = policy.action_probabilities(world(20, 9).embeddings, preferences_from_w_cost(0.5, 20))
    assert np.isfinite(p).all()


def test_neighbours_are_tuned_without_the_prompt_itself():
    # Scores are noise: the more neighbours, the better; a prompt that counted itself would choose one.
    rng = np.random.default_rng(0)
    assert tuned_neighbours(rng.normal(size=(400, 3)), rng.random((400, 1)), (1, 5, 100)) == 100


def test_a_prompt_is_not_its_own_neighbour_and_many_are_judged_by_a_draw(monkeypatch):
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(300, 8)), 2, axis=0)
    y = np.repeat(rng.random((300, 1)), 2, axis=0)
    # Every prompt has one copy: one neighbour says all, unless a prompt counted itself.
    assert tuned_neighbours(x, y, (1, 50)) == 1
    assert tuned_neighbours(x[::2], y[::2], (1, 50)) == 50
    monkeypatch.setattr(knn, "MOST_LEFT_OUT", 40)
    assert tuned_neighbours(x, y, (1, 50)) == 1
    assert tuned_neighbours(x[::2], y[::2], (1, 50)) == 50


def test_partial_scores_are_fitted_by_logistic_regression():
    data = world(400, 3)
    data.scores[:, 2] = 0.3
    q, _ = LogisticPolicy.fit(data, 1e-3).predict(data.embeddings, None)
    assert q[:, 2].mean() == pytest.approx(0.3, abs=0.02)


def test_carrot_prices_a_long_prompt_higher():
    data = world(600, 3)
    data.costs_usd[:] = data.prompt_tokens[:, None] * 1e-5
    _, costs = CarrotPolicy.fit(data, 5e-4).predict(data.embeddings[:2], np.array([8.0, 45.0]))
    assert (costs[1] > costs[0] + 0.3).all()


def test_arms_agree_with_ridge_regression_in_closed_form():
    from sklearn.linear_model import Ridge

    log = uniform_log(world(300, 3), 3)
    policy = LinUcbPolicy.fit(log, 1e-3, alpha=0.0, penalties=(2.0,))
    mine = log.actions == 1
    z = np.hstack([(log.embeddings - policy.centre) @ policy.basis, np.ones((300, 1))])
    ridge = Ridge(2.0, fit_intercept=False).fit(z[mine], log.scores[mine] - log.scores.mean())
    mean, _ = policy.posterior_rewards(log.embeddings, preferences_from_w_cost(0.0, 300))
    np.testing.assert_allclose(mean[:, 1], ridge.predict(z) + log.scores.mean(), atol=1e-6)


def test_optimism_favours_the_model_seen_least():
    log = uniform_log(world(600, 3), 3)
    kept = (log.actions != 0) | (np.arange(600) % 10 == 0)
    x, w = world(200, 4).embeddings, preferences_from_w_cost(0.0, 200)
    calls = [
        LinUcbPolicy.fit(log.rows(kept), 1e-3, alpha=a).action_probabilities(x, w)[:, 0].sum()
        for a in (0, 20)
    ]
    assert calls[1] > calls[0]


def test_epsilon_is_shared_among_eligible_models():
    policy = EpsilonGreedyPolicy.fit(uniform_log(world(300, 3), 3), 1e-3, epsilon=0.2)
    eligible = np.tile([True, True, False], (20, 1))
    p = policy.action_probabilities(world(20, 4).embeddings, preferences_from_w_cost(0.0, 20), eligible)
    np.testing.assert_allclose(np.sort(p, axis=1), np.tile([0.0, 0.1, 0.9], (20, 1)))


@settings(max_examples=50, deadline=None)
@given(
    st.floats(-2, 2), st.floats(-2, 2), st.floats(0.05, 2), st.floats(0.05, 2)
)  # fmt: skip
def test_probability_of_best_of_two_normals_is_exact(a, b, sd_a, sd_b):
    p = probability_of_best(np.array([[a, b]]), np.array([[sd_a, sd_b]]), np.ones((1, 2), dtype=bool))
    assert p[0, 0] == pytest.approx(norm.cdf((a - b) / np.hypot(sd_a, sd_b)), abs=2e-3)
