"""RouteLLM's metrics for routing between a weak and a strong model: PGR, APGR, CPT.

Source: RouteLLM (Ong et al., arXiv 2406.18665), section 3.
"""

from __future__ import annotations

import numpy as np

from policies.metrics.tables import Float64Array, FloatArray, checked_points


def strong_call_curve(
    strong_preference: FloatArray, weak_scores: FloatArray, strong_scores: FloatArray
) -> tuple[Float64Array, Float64Array]:
    """Return (shares of strong calls, qualities), both (n + 1,), as the router's threshold falls.

    Args:
        strong_preference: shape (n,), higher where the router would rather call the strong model.
        weak_scores: shape (n,), outcomes of the weak model.
        strong_scores: shape (n,), outcomes of the strong model.

    Raises:
        ValueError: shapes differ or a value is not finite.
    """
    preference, weak = checked_points(strong_preference, weak_scores)
    _, strong = checked_points(strong_preference, strong_scores)
    order = np.argsort(-preference, kind="stable")
    gains = np.concatenate([[0.0], np.cumsum((strong - weak)[order])])
    return np.linspace(0.0, 1.0, weak.size + 1), weak.mean() + gains / weak.size


def performance_gap_recovered(
    quality: FloatArray | float, weak_quality: float, strong_quality: float
) -> Float64Array:
    """Return PGR = (Q - Q_weak) / (Q_strong - Q_weak), same shape as ``quality``.

    Raises:
        ValueError: the strong model is not better than the weak one.
    """
    gap = strong_quality - weak_quality
    if not gap > 0.0:
        raise ValueError(f"strong_quality {strong_quality} must exceed weak_quality {weak_quality}")
    return (np.asarray(quality, dtype=np.float64) - weak_quality) / gap


def average_performance_gap_recovered(
    strong_share: FloatArray, quality: FloatArray, weak_quality: float, strong_quality: float
) -> float:
    """Return APGR = (AUC - AUC_weak) / (AUC_strong - AUC_weak) over the share of strong calls, 0 .. 1.

    The curve is closed by its known ends, (0, weak) and (1, strong), and joined by straight lines; a random
    router scores 0.5.

    Args:
        strong_share: shape (S,), share of calls to the strong model, in [0, 1].
        quality: shape (S,).
        weak_quality: mean score of the weak model.
        strong_quality: mean score of the strong model.
    """
    share, pgr = _closed_curve(strong_share, quality, weak_quality, strong_quality)
    return float(np.trapezoid(pgr, share))


def call_performance_threshold(
    strong_share: FloatArray,
    quality: FloatArray,
    weak_quality: float,
    strong_quality: float,
    target_pgr: float,
) -> float:
    """Return CPT(p): the smallest share of strong calls at which PGR reaches ``target_pgr``.

    Raises:
        ValueError: ``target_pgr`` lies outside [0, 1].
    """
    if not 0.0 <= target_pgr <= 1.0:
        raise ValueError(f"target_pgr is {target_pgr}: must lie in [0, 1]")
    share, pgr = _closed_curve(strong_share, quality, weak_quality, strong_quality)
    first = int(np.argmax(pgr >= target_pgr - 1e-12))
    if first == 0:
        return float(share[0])
    rise = pgr[first] - pgr[first - 1]
    part = (target_pgr - pgr[first - 1]) / rise if rise > 0.0 else 1.0
    return float(share[first - 1] + min(part, 1.0) * (share[first] - share[first - 1]))


def _closed_curve(
    strong_share: FloatArray, quality: FloatArray, weak_quality: float, strong_quality: float
) -> tuple[Float64Array, Float64Array]:
    share, q = checked_points(strong_share, quality)
    if share.min() < 0.0 or share.max() > 1.0:
        raise ValueError(f"strong_share ranges over {share.min()}..{share.max()}: must lie in [0, 1]")
    order = np.argsort(share, kind="stable")
    share = np.concatenate([[0.0], share[order], [1.0]])
    q = np.concatenate([[weak_quality], q[order], [strong_quality]])
    return share, performance_gap_recovered(q, weak_quality, strong_quality)
