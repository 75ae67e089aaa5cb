"""A replica's share of what all replicas have in common: requests and money at hand, so that few requests wait."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from serve.access.buckets import Buckets, TokenLease
from serve.access.ledger import UsdLease
from serve.control import Control, ControlUnavailableError
from serve.settings.access import KeySettings

TOKENS_FOR_S = 0.1
"""A replica takes requests for so long at a time: at most ten questions a second for each key."""

TOKENS_KEPT_S = 1.0
BURST_PARTS = 4
"""A replica takes at most one part in so many of a burst, so that others find some too."""

LEFT_KNOWN_S = 1.0
"""How long a replica believes what it was told of a budget's rest."""

FALLBACK_S = 1.0
"""How long a replica counts for itself before it asks again for common state that does not answer."""


class OverRateError(Exception):
    """The key's requests come too fast."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__()
        self.retry_after_s = retry_after_s


class OverBudgetError(Exception):
    """The key's budgets cannot give what is needed."""

    def __init__(self, left_nano_usd: int, retry_after_s: float | None) -> None:
        super().__init__()
        self.left_nano_usd = left_nano_usd
        self.retry_after_s = retry_after_s


@dataclass
class _Tokens:
    left: int = 0
    stale_at: float = 0.0
    refused_until: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class TokenSlices:
    """Requests that this replica may let pass.

    While the common state is out of reach, each of ``replicas`` counts for itself with its part of the rate.

    Args:
        control: the common state.
        keys: limits by key id.
        replicas: how many share a limit at most.
        clock: seconds that only rise.
    """

    def __init__(
        self,
        control: Control,
        keys: Mapping[str, KeySettings],
        replicas: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._control = control
        self._clock = clock
        self._keys = keys
        self._alone = Buckets({key.id: _part(key, replicas) for key in keys.values()}, clock)
        self._alone_until = 0.0
        self._slices: defaultdict[str, _Tokens] = defaultdict(_Tokens)

    async def take(self, key_id: str) -> None:
        """Let one request pass.

        Raises:
            OverRateError: the key has used up its rate.
        """
        tokens = self._slices[key_id]
        if self._take_at_hand(tokens):
            return
        async with tokens.lock:
            # Whoever held the lock may have brought enough for those who waited.
            if self._take_at_hand(tokens):
                return
            lease = await self._lease(key_id)
            now = self._clock()
            if lease.tokens == 0:
                tokens.refused_until = now + lease.retry_after_s
                raise OverRateError(lease.retry_after_s)
            tokens.left, tokens.stale_at = lease.tokens - 1, now + TOKENS_KEPT_S

    def _take_at_hand(self, tokens: _Tokens) -> bool:
        now = self._clock()
        if now < tokens.refused_until:
            raise OverRateError(tokens.refused_until - now)
        if tokens.left and now < tokens.stale_at:
            tokens.left -= 1
            return True
        return False

    async def _lease(self, key_id: str) -> TokenLease:
        if self._clock() >= self._alone_until:
            key = self._keys[key_id]
            rate = key.requests_per_s or 0.0
            wanted = min(rate * TOKENS_FOR_S, (key.burst or rate) / BURST_PARTS)
            try:
                return await self._control.lease_tokens(key_id, max(1, math.floor(wanted)))
            except ControlUnavailableError:
                self._alone_until = self._clock() + FALLBACK_S
        return self._alone.lease(key_id, 1)


def _part(key: KeySettings, replicas: int) -> KeySettings:
    if key.requests_per_s is None:
        return key
    burst = key.burst or max(1, math.ceil(key.requests_per_s))
    return key.model_copy(
        update={"requests_per_s": key.requests_per_s / replicas, "burst": max(1, burst // replicas)}
    )


@dataclass
class _Money:
    """What a replica has of one day's budget of one key, in nano-dollars."""

    free: int = 0
    reserved: int = 0
    spent: int = 0
    reported: int = 0
    expires_at: float = math.inf
    used_at: float = 0.0

    @property
    def total(self) -> int:
        return self.free + self.reserved + self.spent


class UsdSlices:
    """Money that this replica may spend.

    Args:
        control: the common state.
        hold_s: after so long without use the rest is given back.
        clock: seconds that only rise.
    """

    def __init__(self, control: Control, hold_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._control = control
        self._hold_s = hold_s
        self._clock = clock
        # The process's own: a restarted replica must not give back what the one before it may have spent.
        self.holder = uuid.uuid4().hex
        self._sequence = 0
        self._current: dict[str, str] = {}
        self._money: dict[tuple[str, str], _Money] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._in_doubt: set[str] = set()
        self._left: dict[str, tuple[int, float]] = {}

    async def reserve(self, key_id: str, nano_usd: int) -> str:
        """Set money aside and return the day that it belongs to.

        Raises:
            OverBudgetError: the key's budgets do not have so much.
            ControlUnavailableError: neither does this replica's slice, and there is nobody to ask.
        """
        day = self._reserve_at_hand(key_id, nano_usd)
        if day is not None:
            return day
        async with self._locks[key_id]:
            day = self._reserve_at_hand(key_id, nano_usd)
            if day is not None:
                return day
            await self._give_back_old(key_id)
            while True:
                lease = await self._lease(key_id, nano_usd)
                day = self._reserve_at_hand(key_id, nano_usd)
                if day is not None:
                    return day
                # Others may have taken what was at hand while this one asked; only a refusal ends it.
                if lease.nano_usd == 0:
                    raise OverBudgetError(lease.left_nano_usd, lease.retry_after_s)

    def settle(self, key_id: str, day: str, reserved_nano_usd: int, spent_nano_usd: int) -> None:
        """Replace what was set aside by what was spent, which may be more."""
        money = self._money[key_id, day]
        money.reserved -= reserved_nano_usd
        money.spent += spent_nano_usd
        money.free += reserved_nano_usd - spent_nano_usd
        money.used_at = self._clock()

    async def left_nano_usd(self, key_id: str) -> int:
        """Return what the key can still spend, as far as this replica knows.

        Raises:
            ControlUnavailableError: it does not know, and there is nobody to ask.
        """
        left, known_at = self._left.get(key_id, (0, -math.inf))
        if self._clock() - known_at > LEFT_KNOWN_S:
            left = await self._control.left_nano_usd(key_id)
            self._left[key_id] = (left, self._clock())
        money = self._now(key_id)
        return max(0, left + (money.free if money else 0))

    @property
    def in_doubt(self) -> bool:
        """Whether an answer was lost, so that the common state may count more than this replica has."""
        return bool(self._in_doubt)

    async def tidy(self) -> None:
        """Give back what has not been used for a while or belongs to a past day, and tell of overdrafts."""
        for (key_id, day), money in list(self._money.items()):
            idle = self._clock() - money.used_at >= self._hold_s
            async with self._locks[key_id]:
                if idle or money.free < 0 or not self._is_current(key_id, day):
                    await self._give_back(key_id, day, money)

    async def give_back_all(self) -> None:
        """Give everything back that is not spent or set aside."""
        for (key_id, day), money in list(self._money.items()):
            async with self._locks[key_id]:
                await self._give_back(key_id, day, money)

    def _reserve_at_hand(self, key_id: str, nano_usd: int) -> str | None:
        money = self._now(key_id)
        if money is None or money.free < nano_usd:
            return None
        money.free -= nano_usd
        money.reserved += nano_usd
        money.used_at = self._clock()
        return self._current[key_id]

    def _now(self, key_id: str) -> _Money | None:
        day = self._current.get(key_id)
        return self._money[key_id, day] if day and self._is_current(key_id, day) else None

    def _is_current(self, key_id: str, day: str) -> bool:
        money = self._money.get((key_id, day))
        return self._current.get(key_id) == day and money is not None and self._clock() < money.expires_at

    async def _lease(self, key_id: str, nano_usd: int) -> UsdLease:
        """Take a slice; the caller holds the key's lock."""
        at_hand = self._now(key_id)
        self._sequence += 1
        try:
            lease = await self._control.lease_usd(
                key_id, self.holder, self._sequence, nano_usd - (at_hand.free if at_hand else 0)
            )
        except ControlUnavailableError:
            # The answer may have been lost, and with it a slice: the next report puts that right.
            self._in_doubt.add(key_id)
            raise
        now = self._clock()
        self._left[key_id] = (lease.left_nano_usd, now)
        money = self._money.setdefault((key_id, lease.day), _Money())
        money.free += lease.nano_usd
        money.reported = money.total
        money.expires_at, money.used_at = now + lease.expires_s, now
        self._current[key_id] = lease.day
        return lease

    async def _give_back_old(self, key_id: str) -> None:
        for (owner, day), money in list(self._money.items()):
            if owner == key_id and not self._is_current(key_id, day):
                await self._give_back(key_id, day, money)

    async def _give_back(self, key_id: str, day: str, money: _Money) -> None:
        """Tell the common state what is spent and set aside; the caller holds the key's lock."""
        # Out of hand before it is told: what the common state takes back must not be spent here.
        money.free = 0
        total = money.total
        in_doubt = key_id in self._in_doubt and self._is_current(key_id, day)
        if total != money.reported or in_doubt:
            self._sequence += 1
            await self._control.report_usd(key_id, day, self.holder, self._sequence, total)
            money.reported = total
            if in_doubt:
                self._in_doubt.discard(key_id)
        if money.reserved == 0 and not self._is_current(key_id, day):
            self._money.pop((key_id, day), None)
