"""Hull, mix line, AIQ, Pareto distance and hypervolume."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.metrics import (
    aiq,
    hull_quality,
    hypervolume,
    mix_line_aiq,
    pareto_distances,
    pareto_front,
    upper_hull,
)

coordinate = st.integers(0, 20).map(lambda k: k / 20.0)
points = st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=12).map(np.array)


def brute_force(cloud, cost):
    """Best quality from one point, or a coin flip between two, that costs at most ``cost``."""
    best = max((q for c, q in cloud if c <= cost), default=-np.inf)
    for (c0, q0), (c1, q1) in combinations(sorted(map(tuple, cloud)), 2):
        if c0 <= cost < c1:
            best = max(best, q0 + (q1 - q0) * (cost - c0) / (c1 - c0))
    return best


@given(points, coordinate)
def test_hull_is_the_best_coin_flip(cloud, cost):
    expected = brute_force(cloud, max(cost, cloud[:, 0].min()))
    assert hull_quality(upper_hull(*cloud.T), np.array([cost]))[0] == pytest.approx(expected, abs=1e-12)


@given(points)
def test_hull_rises_and_is_concave(cloud):
    hull = upper_hull(*cloud.T)
    steps = np.diff(hull, axis=0)
    assert (steps > 0).all()
    assert (np.diff(steps[:, 1] / steps[:, 0]) < 1e-12).all()


@given(points)
def test_hull_of_a_hull_is_itself(cloud):
    hull = upper_hull(*cloud.T)
    np.testing.assert_array_equal(upper_hull(*hull.T), hull)


@given(points)
def test_aiq_of_the_mix_line_equals_that_of_the_single_models(cloud):
    mix = upper_hull(*cloud.T)
    assert aiq(*mix.T, *cloud.T) == pytest.approx(mix_line_aiq(*cloud.T), abs=1e-12)


@given(points, points)
def test_aiq_never_falls_when_a_router_gains_points(cloud, more):
    singles = np.array([[0.1, 0.2], [0.9, 0.6]])
    few = aiq(*cloud.T, *singles.T)
    assert aiq(*np.concatenate([cloud, more]).T, *singles.T) >= few - 1e-12


@given(points, st.lists(st.tuples(coordinate, coordinate), min_size=2, max_size=6).map(np.array))
def test_aiq_is_close_to_the_exact_integral(cloud, singles):
    low, high = singles[:, 0].min(), singles[:, 0].max()
    if high == low:
        return
    cheapest = singles[singles[:, 0].argmin()]
    hull = upper_hull(*np.concatenate([cloud, cheapest[None]]).T)
    knots = np.unique(np.concatenate([[low, high], hull[(hull[:, 0] > low) & (hull[:, 0] < high), 0]]))
    exact = np.trapezoid(hull_quality(hull, knots), knots) / (high - low)
    assert aiq(*cloud.T, *singles.T) == pytest.approx(exact, abs=1.0 / 4001 + 1e-4)


def test_aiq_by_hand():
    # One router point halfway up in cost, at the best quality: a ramp to 1 and then flat, 0.5 + 0.25 + ...
    value = aiq(np.array([0.5]), np.array([1.0]), np.array([0.0, 1.0]), np.array([0.5, 0.8]))
    assert value == pytest.approx(0.5 * 0.75 + 0.5 * 1.0, abs=1e-4)


def test_hull_refuses_missing_points():
    with pytest.raises(ValueError, match="missing outcomes"):
        upper_hull(np.array([0.1, np.nan]), np.array([0.1, 0.2]))


@given(points, points)
def test_hypervolume_never_falls_when_points_are_added(cloud, more):
    before = hypervolume(*cloud.T, 1.0)
    assert 0.0 <= before <= hypervolume(*np.concatenate([cloud, more]).T, 1.0) + 1e-12
    assert hypervolume(*np.concatenate([cloud, more]).T, 1.0) <= 1.0


@given(points)
def test_hypervolume_against_counting_cells(cloud):
    # With coordinates on a grid of 1/20, cell centres decide exactly; the reference cost 1.1 is on the grid.
    cost = (np.arange(22) + 0.5) / 20
    quality = (np.arange(20) + 0.5) / 20
    dominated = (cloud[:, 0, None, None] < cost[None, :, None]) & (cloud[:, 1, None, None] > quality)
    assert hypervolume(*cloud.T, 1.0) == pytest.approx(dominated.any(axis=0).mean(), abs=1e-9)


def test_hypervolume_of_a_free_perfect_router_is_the_whole_box():
    assert hypervolume(np.array([0.0]), np.array([1.0]), 3.0) == 1.0


def test_pareto_distance_is_zero_on_the_front_and_scaled_off_it():
    singles = (np.array([0.0, 10.0]), np.array([0.2, 0.6]))
    routers = {
        "front": (np.array([0.0, 10.0]), np.array([0.4, 0.6])),
        "off": (np.array([10.0]), np.array([0.4])),
    }
    distances = pareto_distances(routers, *singles)
    assert distances["front"] == 0.0
    assert distances["off"] == pytest.approx(0.5)  # 0.2 below (10, 0.6), over a quality span of 0.4


@given(points, points)
def test_the_joint_front_itself_is_at_distance_zero(first, second):
    front = pareto_front(*np.concatenate([first, second]).T)
    routers = {"a": tuple(first.T), "b": tuple(second.T), "front": tuple(front.T)}
    distances = pareto_distances(routers, np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    assert distances["front"] == 0.0
    assert all(value >= 0.0 for value in distances.values())


@given(points)
def test_no_point_beats_the_pareto_front(cloud):
    front = pareto_front(*cloud.T)
    for cost, quality in cloud:
        assert ((front[:, 0] <= cost) & (front[:, 1] >= quality)).any()
    assert (np.diff(front, axis=0) > 0).all()


def test_pareto_distance_needs_a_scale():
    with pytest.raises(ValueError, match="no scale"):
        pareto_distances({"a": (np.ones(1), np.ones(1))}, np.ones(2), np.array([0.1, 0.2]))
