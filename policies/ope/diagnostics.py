"""Whether a log can answer for a target policy: effective sample size, weights, support."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from policies.ope.logged import FloatArray, LoggedBandit

DEFAULT_PROPENSITY_FLOOR = 0.01


@dataclass(frozen=True)
class Diagnostics:
    """Overlap of a log and a target policy; print them with every estimate.

    Attributes:
        n_events: number of events.
        ess: effective sample size, ``(sum v)^2 / sum v^2``; 0 when all weights are 0.
        mean_weight: mean of v; 1 in expectation where the log covers the target.
        mean_weight_error: standard error of ``mean_weight``.
        max_weight: largest v.
        share_below_floor: share of events with a propensity below ``propensity_floor``.
        propensity_floor: that floor.
        share_never_taken: share of events whose logged action the target never takes (v = 0).
        unsupported_mass: mean probability that the target gives to models with fewer than
            ``min_action_events`` logged events, on which the log says next to nothing.
        min_action_events: that number.
    """

    n_events: int
    ess: float
    mean_weight: float
    mean_weight_error: float
    max_weight: float
    share_below_floor: float
    propensity_floor: float
    share_never_taken: float
    unsupported_mass: float
    min_action_events: int

    def as_dict(self) -> dict[str, float]:
        """Return plain numbers, ready for JSON."""
        return asdict(self)


def diagnose(
    log: LoggedBandit,
    target: FloatArray,
    propensity_floor: float = DEFAULT_PROPENSITY_FLOOR,
    min_action_events: int = 20,
) -> Diagnostics:
    """Return the diagnostics of a log for one target policy.

    Args:
        log: n events.
        target: shape (n, K).
        propensity_floor: propensities below it count as too small.
        min_action_events: models logged less often count as unsupported.
    """
    p = log.checked_target(target)
    v = log.weights(p)
    n = len(log)
    counts = np.bincount(log.actions, minlength=p.shape[1])
    return Diagnostics(
        n_events=n,
        ess=effective_sample_size(v),
        mean_weight=float(v.mean()),
        mean_weight_error=float(v.std(ddof=1) / np.sqrt(n)) if n > 1 else float("inf"),
        max_weight=float(v.max()),
        share_below_floor=float((log.propensities < propensity_floor).mean()),
        propensity_floor=propensity_floor,
        share_never_taken=float((v == 0.0).mean()),
        unsupported_mass=float(p[:, counts < min_action_events].sum(axis=1).mean()),
        min_action_events=min_action_events,
    )


def effective_sample_size(weights: FloatArray) -> float:
    """Return ``(sum |v|)^2 / sum v^2``, in [0, n]; 0 when all weights are 0."""
    v = np.abs(np.asarray(weights, dtype=np.float64))
    squares = float((v**2).sum())
    return float(v.sum()) ** 2 / squares if squares > 0.0 else 0.0
