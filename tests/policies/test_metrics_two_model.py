"""RouteLLM's two-model metrics and RouterArena's score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import metrics


def test_pgr_is_zero_at_weak_and_one_at_strong():
    np.testing.assert_allclose(
        metrics.performance_gap_recovered(np.array([0.4, 0.6, 0.8]), 0.4, 0.8), [0, 0.5, 1]
    )


def test_pgr_needs_a_gap():
    with pytest.raises(ValueError, match="must exceed"):
        metrics.performance_gap_recovered(0.5, 0.6, 0.6)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8))
def test_apgr_of_random_routing_is_one_half(shares):
    share = np.array(shares)
    value = metrics.average_performance_gap_recovered(share, 0.2 + 0.5 * share, 0.2, 0.7)
    assert value == pytest.approx(0.5, abs=1e-9)


def test_a_perfect_ranking_recovers_more_than_a_reversed_one():
    rng = np.random.default_rng(0)
    weak, strong = rng.integers(0, 2, 200).astype(float), np.ones(200)
    ends = (weak.mean(), strong.mean())
    good = metrics.strong_call_curve(strong - weak, weak, strong)
    bad = metrics.strong_call_curve(weak - strong, weak, strong)
    apgr_good = metrics.average_performance_gap_recovered(*good, *ends)
    apgr_bad = metrics.average_performance_gap_recovered(*bad, *ends)
    assert apgr_good > 0.5 > apgr_bad
    assert apgr_good + apgr_bad == pytest.approx(1.0, abs=1e-9)


def test_curve_ends_at_the_two_models():
    share, quality = metrics.strong_call_curve(
        np.array([0.1, 0.9]), np.array([0.0, 1.0]), np.array([1.0, 1.0])
    )
    assert share[[0, -1]].tolist() == [0.0, 1.0]
    assert quality.tolist() == [0.5, 0.5, 1.0]


@pytest.mark.parametrize(("target", "expected"), [(0.0, 0.0), (0.5, 0.25), (0.75, 0.375), (1.0, 0.5)])
def test_cpt_interpolates_the_share_of_strong_calls(target, expected):
    share, quality = np.array([0.5]), np.array([0.8])
    assert metrics.call_performance_threshold(share, quality, 0.4, 0.8, target) == pytest.approx(expected)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_cpt_never_falls_as_the_target_rises(a, b):
    share, quality = np.array([0.2, 0.6, 0.8]), np.array([0.5, 0.45, 0.7])
    low, high = sorted((a, b))
    values = [metrics.call_performance_threshold(share, quality, 0.4, 0.8, t) for t in (low, high)]
    assert 0.0 <= values[0] <= values[1] + 1e-9 <= 1.0 + 1e-9


def test_arena_cost_spans_zero_to_one_and_clamps():
    assert metrics.arena_cost(200.0) == 0.0
    assert metrics.arena_cost(1e6) == 0.0
    assert metrics.arena_cost(0.0044) == 1.0
    assert metrics.arena_cost(0.0) == 1.0
    assert metrics.arena_cost(np.sqrt(200.0 * 0.0044)) == pytest.approx(0.5)


@given(st.floats(0.0, 1.0), st.floats(0.0, 300.0))
def test_arena_score_lies_between_cost_and_accuracy(accuracy, cost):
    value = metrics.arena_score(accuracy, cost)
    part = metrics.arena_cost(cost)
    assert min(accuracy, part) - 1e-9 <= value <= max(accuracy, part) + 1e-9


def test_arena_score_by_hand():
    # A = 0.5, C = 1: 1.1 * 0.5 / (0.05 + 1).
    assert metrics.arena_score(0.5, 0.0044) == pytest.approx(0.55 / 1.05)


def test_arena_refuses_a_negative_cost():
    with pytest.raises(ValueError, match="must be >= 0"):
        metrics.arena_score(0.5, -1.0)
