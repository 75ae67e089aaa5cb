"""Circuit breaker: an upstream that fails is left alone for a while, then tried with one call."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from serve.settings.gateway import BreakerSettings

State = Literal["closed", "open", "half_open"]

MAX_CALLS = 200
"""Calls remembered: bounds memory, and how many successes can hide a fresh failure."""


class Breaker:
    """Knows whether one upstream may be called. Not thread-safe: used from one event loop.

    ``closed``: calls go through; enough failures in the window open it. ``open``: no calls until the rest is
    over. ``half_open``: one trial call at a time; it closes on success and opens for twice as long on failure.

    Args:
        settings: thresholds and rests.
        clock: seconds, monotonic.
    """

    def __init__(self, settings: BreakerSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._calls: deque[tuple[float, bool]] = deque()
        self._failures = 0
        self._open_until: float | None = None
        self._rest_s = settings.open_s
        self._trial = False

    @property
    def state(self) -> State:
        """What it is now."""
        if self._open_until is None:
            return "closed"
        return "open" if self._clock() < self._open_until else "half_open"

    @property
    def retry_after_s(self) -> float:
        """Seconds until a call may be worth a try; 0 when one is allowed now."""
        if self._open_until is None:
            return 0.0
        left = self._open_until - self._clock()
        return left if left > 0 else (1.0 if self._trial else 0.0)

    @property
    def allows(self) -> bool:
        """Whether a call would be let through now."""
        if self._open_until is None:
            return True
        return self._clock() >= self._open_until and not self._trial

    def acquire(self) -> bool:
        """Return whether to call; every True must be answered by one of the three methods below."""
        if not self.allows:
            return False
        if self._open_until is not None:
            self._trial = True
        return True

    def succeeded(self) -> None:
        """The call was answered."""
        if self._trial:
            self._close()
        # A call from before the rest says nothing about now.
        elif self._open_until is None:
            self._remember(failed=False)

    def failed(self, rest_s: float | None = None) -> None:
        """The call failed for a reason that lies with the upstream.

        Args:
            rest_s: open at once for this long: the upstream asked for it (``Retry-After``).
        """
        self._remember(failed=True)
        if rest_s is not None:
            self._open(min(rest_s, self._settings.max_open_s))
        elif self._trial:
            self._rest_s = min(self._rest_s * 2, self._settings.max_open_s)
            self._open(self._rest_s)
        elif self._open_until is None and self._too_many():
            self._open(self._rest_s)

    def abandoned(self) -> None:
        """The call ended without telling anything about the upstream (the client left)."""
        self._trial = False

    def _open(self, rest_s: float) -> None:
        self._trial = False
        self._open_until = max(self._open_until or 0.0, self._clock() + rest_s)

    def _close(self) -> None:
        self._open_until = None
        self._rest_s = self._settings.open_s
        self._trial = False
        self._calls.clear()
        self._failures = 0

    def _remember(self, *, failed: bool) -> None:
        self._calls.append((self._clock(), failed))
        self._failures += failed
        if len(self._calls) > MAX_CALLS:
            self._forget_oldest()

    def _too_many(self) -> bool:
        horizon = self._clock() - self._settings.window_s
        while self._calls and self._calls[0][0] < horizon:
            self._forget_oldest()
        calls = len(self._calls)
        return calls >= self._settings.min_calls and self._failures >= self._settings.failure_share * calls

    def _forget_oldest(self) -> None:
        self._failures -= self._calls.popleft()[1]
