"""Where a router lies against a joint Pareto front: distance to it and dominated area."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from policies.metrics.tables import Float64Array, FloatArray, checked_points

HYPERVOLUME_COST_MARGIN = 1.1
"""The reference cost is 1.1 times the dearest single model's, so that this model itself still dominates an
area."""


def pareto_front(costs: FloatArray, qualities: FloatArray) -> Float64Array:
    """Return the points that no other point beats in cost and quality, shape (k, 2), both columns rising."""
    c, q = checked_points(costs, qualities)
    order = np.lexsort((-q, c))
    c, q = c[order], q[order]
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(q)[:-1]])
    keep = q > best_before
    return np.stack([c[keep], q[keep]], axis=1)


def pareto_distances(
    routers: Mapping[str, tuple[FloatArray, FloatArray]],
    single_costs: FloatArray,
    single_qualities: FloatArray,
) -> dict[str, float]:
    """Return ParetoDist of each router: the mean distance of its points to the front of all routers' points.

    Cost and quality are min-max scaled over the single models (the scaling in the literature is unpublished;
    this one is ours), distances are Euclidean to the nearest point of the joint front. 0 means every point
    is on it.

    Args:
        routers: name to (costs (S,), qualities (S,)).
        single_costs: shape (K,).
        single_qualities: shape (K,).

    Raises:
        ValueError: no routers, or all single models share one cost or one quality (nothing to scale by).
    """
    if not routers:
        raise ValueError("routers is empty: at least one router is needed")
    c1, q1 = checked_points(single_costs, single_qualities)
    low = np.array([c1.min(), q1.min()])
    span = np.array([c1.max(), q1.max()]) - low
    if (span <= 0.0).any():
        raise ValueError(
            "all single models have the same mean cost or the same mean quality: no scale to use"
        )
    scaled = {
        name: (np.stack(checked_points(costs, qualities), axis=1) - low) / span
        for name, (costs, qualities) in routers.items()
    }
    everything = np.concatenate(list(scaled.values()))
    front = pareto_front(everything[:, 0], everything[:, 1])
    return {
        name: float(np.linalg.norm(points[:, None] - front[None], axis=2).min(axis=1).mean())
        for name, points in scaled.items()
    }


def hypervolume(costs: FloatArray, qualities: FloatArray, dearest_single_cost: float) -> float:
    """Return the share of the box (0 .. reference cost) x (0 .. 1) that the points dominate, in [0, 1].

    The area is the staircase of points (cost down, quality up) against the reference point
    (`HYPERVOLUME_COST_MARGIN` x dearest single cost, 0). Points beyond the reference add nothing. Adding a
    point never lowers it.

    Raises:
        ValueError: ``dearest_single_cost`` is not positive, or a cost or quality is negative or not finite.
    """
    c, q = checked_points(costs, qualities)
    if not (np.isfinite(dearest_single_cost) and dearest_single_cost > 0.0):
        raise ValueError(f"dearest_single_cost is {dearest_single_cost}: must be positive and finite")
    if c.min() < 0.0 or q.min() < 0.0:
        raise ValueError("costs and qualities must be >= 0")
    reference = HYPERVOLUME_COST_MARGIN * dearest_single_cost
    inside = c < reference
    if not inside.any():
        return 0.0
    front = pareto_front(c[inside], q[inside])
    widths = np.diff(np.append(front[:, 0], reference))
    return float((widths * front[:, 1]).sum() / reference)
