"""The door of one replica: who is it, may they ask now, can they pay."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from serve.access.caller import ANYONE, Caller
from serve.access.keys import KeyRing, token_of
from serve.access.ledger import NANO
from serve.access.slices import OverBudgetError, OverRateError, TokenSlices, UsdSlices
from serve.api.errors import ApiError
from serve.control import Control, ControlUnavailableError
from serve.settings.access import AccessSettings

logger = logging.getLogger(__name__)

TIDY_S = 1.0


@dataclass
class Reservation:
    """Money set aside for one request.

    Attributes:
        caller: whose budget it is.
        usd: how much.
    """

    caller: Caller
    usd: float
    day: str | None = field(default=None, repr=False)
    settled: bool = field(default=False, repr=False)


class Access:
    """Checks callers against keys, rate limits and budgets.

    Args:
        settings: of the door.
        ring: the keys, None to let everybody in.
        control: what replicas have in common.
        replicas: how many replicas there are at most.
    """

    def __init__(
        self, settings: AccessSettings, ring: KeyRing | None, control: Control, replicas: int
    ) -> None:
        self._ring = ring
        keys = ring.keys if ring else {}
        self._rated = {key.id for key in keys.values() if key.requests_per_s is not None}
        self._budgeted = {key.id for key in keys.values() if key.has_budget}
        self._tokens = TokenSlices(control, keys, replicas)
        self._usd = UsdSlices(control, settings.hold_s)

    def authenticate(self, headers: Mapping[str, str]) -> Caller:
        """Return who sends a request with these headers (lower-case names).

        Raises:
            ApiError: 401, there is no valid key among them.
        """
        if self._ring is None:
            return ANYONE
        token = token_of(headers)
        if not token:
            raise ApiError(401, "key_missing", "no API key; send it as 'Authorization: Bearer KEY'")
        caller = self._ring.find(token)
        if caller is None:
            raise ApiError(401, "key_unknown", "this API key is not known here")
        return caller

    async def admit(self, caller: Caller) -> None:
        """Let a request pass its key's rate limit.

        Raises:
            ApiError: 429 with Retry-After.
        """
        if caller.key_id not in self._rated:
            return
        try:
            await self._tokens.take(caller.key_id)
        except OverRateError as error:
            raise ApiError(
                429,
                "rate_limit_exceeded",
                f"key '{caller.name}' is over its rate limit",
                headers=retry_after(error.retry_after_s),
            ) from None

    async def remaining_usd(self, caller: Caller) -> float | None:
        """Return what is left of the caller's budgets, None without budgets: the most one request may cost.

        Raises:
            ApiError: 503, budgets cannot be checked now.
        """
        if caller.key_id not in self._budgeted:
            return None
        try:
            return await self._usd.left_nano_usd(caller.key_id) / NANO
        except ControlUnavailableError:
            raise _budget_unavailable() from None

    async def reserve(self, caller: Caller, usd: float) -> Reservation:
        """Set money aside before it is spent: the most that the request can cost.

        Every reservation must be settled, with 0 when nothing was called.

        Raises:
            ApiError: 429 ``budget_exceeded``, or 503 when budgets cannot be checked now.
        """
        reservation = Reservation(caller, usd)
        if caller.key_id not in self._budgeted:
            return reservation
        try:
            reservation.day = await self._usd.reserve(caller.key_id, _nano(usd))
        except OverBudgetError as error:
            left = max(error.left_nano_usd, 0) / NANO
            raise ApiError(
                429,
                "budget_exceeded",
                f"key '{caller.name}' has {left:.6f} USD left, the request may cost {usd:.6f} USD",
                headers={} if error.retry_after_s is None else retry_after(error.retry_after_s),
            ) from None
        except ControlUnavailableError:
            raise _budget_unavailable() from None
        return reservation

    def settle(self, reservation: Reservation, usd: float) -> None:
        """Replace a reservation by what was spent. Settling twice changes nothing."""
        if reservation.settled:
            return
        reservation.settled = True
        key_id = reservation.caller.key_id
        if key_id is not None and reservation.day is not None:
            self._usd.settle(key_id, reservation.day, _nano(reservation.usd), _nano(usd))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Give unused money back in the background, and all of it on leaving."""
        task = asyncio.create_task(self._keep_tidy())
        try:
            yield
        finally:
            task.cancel()
            with suppress(ControlUnavailableError):
                await self._usd.give_back_all()

    async def _keep_tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_S)
            try:
                await self._usd.tidy()
            except ControlUnavailableError as error:
                logger.warning("unused budget could not be given back: %s", error)


def retry_after(seconds: float) -> dict[str, str]:
    """Return the header that says when to come again: whole seconds, at least one."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def _budget_unavailable() -> ApiError:
    return ApiError(503, "budget_unavailable", "budgets cannot be checked now", headers=retry_after(1.0))


def _nano(usd: float) -> int:
    # Upwards: a cost below a billionth of a dollar is not free.
    return math.ceil(round(usd * NANO, 3))
