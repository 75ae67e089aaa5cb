"""The cost-quality plane: non-decreasing upper concave hull, mix line and AIQ.

Source: RouterBench (Hu et al., arXiv 2403.12031), section on the non-decreasing convex hull and AIQ.
"""

from __future__ import annotations

import numpy as np

from policies.metrics.tables import Float64Array, FloatArray, checked_points

AIQ_GRID_POINTS = 4001
"""Costs at which the hull is averaged. The plain mean over the grid departs from the exact integral by less
than ``(max - min quality) / 4001``, at most 2.5e-4; a fixed grid makes figures from different programs comparable."""


def upper_hull(costs: FloatArray, qualities: FloatArray) -> Float64Array:
    """Return the non-decreasing upper concave hull of points, shape (k, 2), columns (cost, quality).

    The hull is what coin flips between the points achieve; between and beyond its vertices see
    `hull_quality`. Points on an edge of the hull are left out. O(S log S).

    Args:
        costs: shape (S,), any unit.
        qualities: shape (S,).

    Raises:
        ValueError: shapes differ or a value is not finite.
    """
    c, q = checked_points(costs, qualities)
    order = np.lexsort((-q, c))
    hull: list[tuple[float, float]] = []
    best = -np.inf
    for cost, quality in zip(c[order].tolist(), q[order].tolist()):
        if quality <= best:
            continue
        best = quality
        while len(hull) > 1 and not _turns_right(hull[-2], hull[-1], (cost, quality)):
            hull.pop()
        hull.append((cost, quality))
    return np.array(hull)


def hull_quality(hull: Float64Array, costs: FloatArray) -> Float64Array:
    """Return the hull's quality at ``costs``: linear between vertices, flat beyond the first and the last."""
    return np.interp(np.asarray(costs, dtype=np.float64), hull[:, 0], hull[:, 1])


def mix_line(single_costs: FloatArray, single_qualities: FloatArray) -> Float64Array:
    """Return the mix line (RouterBench's zero router): the hull of the single-model points, shape (k, 2).

    Args:
        single_costs: shape (K,), mean cost of each model in USD per call.
        single_qualities: shape (K,), mean score of each model.
    """
    return upper_hull(single_costs, single_qualities)


def aiq(
    costs: FloatArray, qualities: FloatArray, single_costs: FloatArray, single_qualities: FloatArray
) -> float:
    """Return AIQ: the mean quality of the router's hull over the cost range of the single models.

    ``1 / (c_max - c_min) * integral of R(c) dc`` with c_min and c_max the mean cost of the cheapest and the
    dearest single model, the same for every router compared; the cheapest single model joins the router's
    points, since any dial can reach it. (RouterBench's own code integrates over each router's own range: the
    two must not be mixed.) The integral is the mean over `AIQ_GRID_POINTS` evenly spaced costs, both ends
    included.

    Args:
        costs: shape (S,), the router's mean cost at each dial setting, USD per call.
        qualities: shape (S,), its mean score.
        single_costs: shape (K,), mean cost of each model, same unit.
        single_qualities: shape (K,).
    """
    c, q = checked_points(costs, qualities)
    c1, q1 = checked_points(single_costs, single_qualities)
    cheapest = int(c1.argmin())
    hull = upper_hull(np.append(c, c1[cheapest]), np.append(q, q1[cheapest]))
    return float(hull_quality(hull, np.linspace(c1.min(), c1.max(), AIQ_GRID_POINTS)).mean())


def mix_line_aiq(single_costs: FloatArray, single_qualities: FloatArray) -> float:
    """Return the AIQ of the mix line, the bar that a router must pass."""
    return aiq(single_costs, single_qualities, single_costs, single_qualities)


def _turns_right(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - a[0]) > (c[1] - a[1]) * (b[0] - a[0])
