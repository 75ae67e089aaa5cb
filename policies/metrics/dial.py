"""What the dial buys and whether it works: PerfGain, CostSave, monotonicity of cost, dead stretches.

PerfGain and CostSave pick one dial setting. Picking it on the prompts that are reported is optimistic, so
choosing (`perf_gain_setting`, `cost_save_setting`, on validation points) and measuring (on test points) are
two functions.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from policies.metrics.tables import FloatArray, checked_points, checked_probabilities

DEAD_STEP_SHARE = 1e-3
"""A step of the dial is dead when fewer than this share of the routing decisions changes."""


def perf_gain_setting(validation_quality: FloatArray) -> int:
    """Return the dial setting with the highest quality on validation (the first of several)."""
    return int(np.argmax(validation_quality))


def perf_gain(quality: FloatArray, best_single_quality: float, setting: int) -> float:
    """Return (Q(s) - Q_best_single) / Q_best_single at the setting chosen on validation.

    Args:
        quality: shape (S,), the router's mean score per dial setting.
        best_single_quality: mean score of the best single model by quality, on the same prompts.
        setting: index from `perf_gain_setting`.

    Raises:
        ValueError: ``best_single_quality`` is not positive.
    """
    if not best_single_quality > 0.0:
        raise ValueError(f"best_single_quality is {best_single_quality}: must be positive")
    return float((np.asarray(quality)[setting] - best_single_quality) / best_single_quality)


def cost_save_setting(
    validation_quality: FloatArray, validation_cost_usd: FloatArray, best_single_quality: float
) -> int | None:
    """Return the cheapest dial setting that reaches the best single model's quality on validation, else None.

    Args:
        validation_quality: shape (S,).
        validation_cost_usd: shape (S,), USD per call.
        best_single_quality: mean score of the best single model on the validation prompts.
    """
    cost, quality = checked_points(validation_cost_usd, validation_quality)
    reached = np.flatnonzero(quality >= best_single_quality)
    return int(reached[cost[reached].argmin()]) if reached.size else None


def cost_save(cost_usd: FloatArray, best_single_cost_usd: float, setting: int | None) -> float | None:
    """Return 1 - C(s) / C_best_single at the setting chosen on validation, None where none was found.

    Args:
        cost_usd: shape (S,), the router's mean cost per dial setting, USD per call.
        best_single_cost_usd: mean cost of the best single model by quality, on the same prompts.
        setting: index from `cost_save_setting`.

    Raises:
        ValueError: ``best_single_cost_usd`` is not positive.
    """
    if not best_single_cost_usd > 0.0:
        raise ValueError(f"best_single_cost_usd is {best_single_cost_usd}: must be positive")
    return None if setting is None else float(1.0 - np.asarray(cost_usd)[setting] / best_single_cost_usd)


def max_cost_rise(cost_usd: FloatArray, dearest_single_cost_usd: float) -> float:
    """Return the largest rise of mean cost between neighbouring settings, relative to the dearest model.

    0 for a monotone dial: turning ``w_cost`` up never raises the cost.

    Args:
        cost_usd: shape (S,), in the order of rising ``w_cost``.
        dearest_single_cost_usd: mean cost of the dearest single model.

    Raises:
        ValueError: ``dearest_single_cost_usd`` is not positive.
    """
    if not dearest_single_cost_usd > 0.0:
        raise ValueError(f"dearest_single_cost_usd is {dearest_single_cost_usd}: must be positive")
    rises = np.diff(np.asarray(cost_usd, dtype=np.float64))
    return float(max(rises.max(initial=0.0), 0.0) / dearest_single_cost_usd)


def dead_dial_share(probabilities: FloatArray, dead_below: float = DEAD_STEP_SHARE) -> float:
    """Return the share of the dial's steps that change (almost) no decision, in [0, 1]; NaN with one setting.

    A step's change is the total variation between the decisions of its two settings, averaged over prompts:
    the share of calls that go to another model.

    Args:
        probabilities: shape (S, n, K), in the order of rising ``w_cost``.
        dead_below: changes below this share count as none.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 3:
        raise ValueError(f"probabilities has shape {p.shape}: expected (S, n, K)")
    p = checked_probabilities(p, *p.shape[1:])
    if p.shape[0] < 2:
        return float("nan")
    changes = np.array([0.5 * np.abs(b - a).sum(axis=1).mean() for a, b in pairwise(p)])
    return float((changes < dead_below).mean())
