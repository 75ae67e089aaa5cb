"""RouterArena's score: one number for accuracy and cost."""

from __future__ import annotations

import numpy as np

CHEAPEST_USD_PER_1000 = 0.0044
DEAREST_USD_PER_1000 = 200.0
BETA = 0.1
"""Weight of cost against accuracy in the harmonic mean; below 1 favours accuracy."""


def arena_cost(cost_usd_per_1000: float) -> float:
    """Return the normalised cost, 1 cheapest to 0 dearest.

    ``C = (log2 200 - log2 c) / (log2 200 - log2 0.0044)``.

    Args:
        cost_usd_per_1000: USD per 1,000 queries, clamped to [0.0044, 200].

    Raises:
        ValueError: negative or NaN.
    """
    if not cost_usd_per_1000 >= 0.0:
        raise ValueError(f"cost_usd_per_1000 is {cost_usd_per_1000}: must be >= 0")
    clamped = float(np.clip(cost_usd_per_1000, CHEAPEST_USD_PER_1000, DEAREST_USD_PER_1000))
    return float(
        (np.log2(DEAREST_USD_PER_1000) - np.log2(clamped))
        / (np.log2(DEAREST_USD_PER_1000) - np.log2(CHEAPEST_USD_PER_1000))
    )


def arena_score(accuracy: float, cost_usd_per_1000: float, beta: float = BETA) -> float:
    """Return RouterArena's score ``(1 + b) A C / (b A + C)``, in [0, 1]; 0 where accuracy or C is 0.

    Args:
        accuracy: share of queries answered correctly, in [0, 1].
        cost_usd_per_1000: USD per 1,000 queries.
        beta: b, positive.

    Raises:
        ValueError: ``accuracy`` outside [0, 1], ``beta`` not positive, or a bad cost.
    """
    if not 0.0 <= accuracy <= 1.0:
        raise ValueError(f"accuracy is {accuracy}: must lie in [0, 1]")
    if not beta > 0.0:
        raise ValueError(f"beta is {beta}: must be positive")
    cost = arena_cost(cost_usd_per_1000)
    bottom = beta * accuracy + cost
    return float((1.0 + beta) * accuracy * cost / bottom) if bottom > 0.0 else 0.0
