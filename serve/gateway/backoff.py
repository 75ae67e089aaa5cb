"""How long to wait before trying again."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def backoff_s(attempt: int, longest_first_s: float, draw: float | None = None) -> float:
    """Return the wait after failed attempt number ``attempt`` (from 1): uniform on 0 .. first * 2^(attempt-1).

    "Full jitter" spreads callers that failed together best for the same total work (Brooker, "Exponential Backoff
    And Jitter", AWS Architecture Blog, 2015).

    Args:
        attempt: how many attempts have failed.
        longest_first_s: longest wait after the first.
        draw: uniform on [0, 1), drawn when None.
    """
    share = random.random() if draw is None else draw
    return float(longest_first_s * 2.0 ** (attempt - 1) * share)


def retry_after_s(headers: dict[str, str], now: datetime | None = None) -> float | None:
    """Return the wait that an answer asks for, None when it asks for none that can be read.

    ``retry-after-ms`` (OpenAI) is finer than ``retry-after``, which is seconds or an HTTP date (RFC 9110, 10.2.3).

    Args:
        headers: by lower-case name.
        now: the time to count a date from.
    """
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            wait = float(headers[name]) * unit_s
        except (KeyError, ValueError):
            continue
        if 0.0 <= wait < float("inf"):
            return wait
    if "retry-after" in headers:
        try:
            at = parsedate_to_datetime(headers["retry-after"])
        except ValueError:
            return None
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        return max((at - (now or datetime.now(UTC))).total_seconds(), 0.0)
    return None
