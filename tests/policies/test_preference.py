"""Reward and preference arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.preference import (
    cost_term,
    default_tau_usd,
    dial_grid,
    normalise_preference,
    preferences_from_w_cost,
    reward,
)

unit = st.floats(0, 1)


@given(unit, unit, st.floats(0, 10), st.floats(1e-6, 10))
def test_reward_lies_between_minus_w_cost_and_w_quality(score, w_cost, cost, tau):
    w = preferences_from_w_cost(w_cost, 1)
    value = reward(np.array([score]), np.array([cost]), w, tau)[0]
    assert -w_cost - 1e-6 <= value <= (1 - w_cost) + 1e-6


def test_reward_by_hand():
    w = preferences_from_w_cost(0.25, 1)
    assert reward(np.array([0.8]), np.array([0.002]), w, 0.004)[0] == pytest.approx(0.75 * 0.8 - 0.25 * 0.5)


def test_reward_broadcasts_over_models():
    w = preferences_from_w_cost(np.array([0.0, 1.0]))
    value = reward(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[2.0, 1.0], [2.0, 1.0]]), w, 2.0)
    assert value.tolist() == [[1.0, 0.0], [-1.0, -0.5]]


def test_missing_score_stays_missing():
    assert np.isnan(reward(np.array([np.nan]), np.array([0.1]), preferences_from_w_cost(0.5, 1), 1.0))[0]


@pytest.mark.parametrize("tau", [0.0, -1.0, np.nan, np.inf])
def test_tau_must_be_positive_and_finite(tau):
    with pytest.raises(ValueError, match="tau_usd"):
        cost_term(np.array([1.0]), tau)


def test_cost_term_saturates_at_one():
    assert cost_term(np.array([0.5, 5.0]), 1.0).tolist() == [0.5, 1.0]


def test_dial_grid_has_21_settings_without_float_dust():
    grid = dial_grid()
    assert len(grid) == 21
    assert grid[6] == 0.3


@given(st.floats(0, 100), st.floats(0.001, 100))
def test_two_weights_normalise_to_the_simplex(w_quality, w_cost):
    q, c = normalise_preference(w_quality, w_cost)
    assert q + c == pytest.approx(1.0)


@pytest.mark.parametrize(("w_quality", "w_cost"), [(None, 1.5), (None, -0.1), (-1.0, 1.0), (0.0, 0.0)])
def test_impossible_preferences(w_quality, w_cost):
    with pytest.raises(ValueError, match="w_"):
        normalise_preference(w_quality, w_cost)


def test_w_cost_out_of_range_names_the_row():
    with pytest.raises(ValueError, match=r"row 1 is 1\.5"):
        preferences_from_w_cost(np.array([0.5, 1.5]))


def test_default_tau_is_the_95th_percentile_of_what_was_observed():
    costs = np.append(np.arange(1.0, 102.0), np.nan)
    assert default_tau_usd(costs) == pytest.approx(96.0)


def test_default_tau_of_free_models_is_refused():
    with pytest.raises(ValueError, match="tau must be positive"):
        default_tau_usd(np.zeros(5))
