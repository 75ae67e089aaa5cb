"""How many requests each key may send now: one token bucket a key for all replicas."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from serve.settings.access import KeySettings


@dataclass(frozen=True)
class TokenLease:
    """Requests that a replica may let pass.

    Attributes:
        tokens: how many, 0 when there are none now.
        retry_after_s: seconds until there is one again.
    """

    tokens: int
    retry_after_s: float


class Buckets:
    """Token buckets by key id; each starts full.

    Args:
        keys: limits by key id; those without a rate have no bucket.
        clock: seconds that only rise.
    """

    def __init__(self, keys: Mapping[str, KeySettings], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._limits = {
            key.id: (key.requests_per_s, float(key.burst or max(1, math.ceil(key.requests_per_s))))
            for key in keys.values()
            if key.requests_per_s is not None
        }
        now = clock()
        self._levels = {key_id: (burst, now) for key_id, (_, burst) in self._limits.items()}

    def lease(self, key_id: str, wanted: int) -> TokenLease:
        """Take up to ``wanted`` tokens out of a key's bucket."""
        rate, burst = self._limits[key_id]
        level, then = self._levels[key_id]
        now = self._clock()
        level = min(burst, level + rate * (now - then))
        tokens = min(wanted, int(level))
        self._levels[key_id] = (level - tokens, now)
        return TokenLease(tokens, 0.0 if tokens else (1.0 - level) / rate)
