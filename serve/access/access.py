"""The door of one replica: who is it, may they ask now, can they pay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serve.access.caller import ANYONE, Caller


@dataclass(frozen=True)
class Reservation:
    """Money set aside for one request.

    Attributes:
        caller: whose budget it is.
        usd: how much.
    """

    caller: Caller
    usd: float


class Access:
    """Checks callers against keys, rate limits and budgets."""

    def authenticate(self, headers: Mapping[str, str]) -> Caller:
        """Return who sends a request with these headers (lower-case names).

        Raises:
            ApiError: 401, there is no valid key among them.
        """
        return ANYONE

    async def admit(self, caller: Caller) -> None:
        """Let a request pass its key's rate limit.

        Raises:
            ApiError: 429 with Retry-After.
        """

    async def remaining_usd(self, caller: Caller) -> float | None:
        """Return what is left of the caller's budgets, None without budgets: the most one request may cost."""
        return None

    async def reserve(self, caller: Caller, usd: float) -> Reservation:
        """Set money aside before it is spent: the most that the request can cost.

        Every reservation must be settled, with 0 when nothing was called.

        Raises:
            ApiError: 429 ``budget_exceeded``, or 503 when budgets cannot be checked now.
        """
        return Reservation(caller, usd)

    def settle(self, reservation: Reservation, usd: float) -> None:
        """Replace a reservation by what was spent. Settling twice changes nothing."""
