"""How long models take: what training saw, brought up to date by the calls that the gateway makes."""

from __future__ import annotations

import time
from collections.abc import Callable

HALF_LIFE_S = 60.0
"""An observation of that age counts half as much as one now."""

PRIOR_WEIGHT = 3.0
"""Calls that the latency known from training is worth."""


class Latencies:
    """Mean latency per model: training's mean as a prior, and recent calls with weights that halve every minute.

    Without recent calls the training's mean comes back. Used from one event loop.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._recent: dict[str, tuple[float, float, float]] = {}

    def __bool__(self) -> bool:
        """Tell whether any call was observed."""
        return bool(self._recent)

    def observe(self, model: str, latency_s: float) -> None:
        """Take in a finished call."""
        weight, total, now = (*self._decayed(model), self._clock())
        self._recent[model] = (weight + 1.0, total + latency_s, now)

    def expected_s(self, model: str, trained_s: float | None) -> float | None:
        """Return the expected latency; None when neither training nor recent calls know.

        Args:
            model: its name.
            trained_s: mean in training, None where unknown.
        """
        if model not in self._recent:
            return trained_s
        weight, total = self._decayed(model)
        if trained_s is not None:
            weight, total = weight + PRIOR_WEIGHT, total + PRIOR_WEIGHT * trained_s
        return total / weight

    def _decayed(self, model: str) -> tuple[float, float]:
        weight, total, at = self._recent.get(model, (0.0, 0.0, 0.0))
        # Never quite to 0, where the mean of what is left would be lost.
        factor = max(0.5 ** ((self._clock() - at) / HALF_LIFE_S), 1e-12)
        return weight * factor, total * factor
