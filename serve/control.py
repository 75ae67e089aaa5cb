"""What the replicas of one endpoint have in common: limits, budgets, and when to look for a new release.

One process holds it. An endpoint of one replica holds it itself; with several, a Serve deployment of one replica
does, which they reach through its handle.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from serve.access.buckets import Buckets, TokenLease
from serve.access.keys import KeyRing, read_keys
from serve.access.ledger import Ledger, UsdLease, utc_now
from serve.settings.access import AccessSettings

POLL_S = 20.0
"""How long a replica's question for a newer generation stays open."""

FORGET_S = 30.0
"""A replica that told nothing for so long is gone."""

LEDGER_FILE = "budgets.sqlite"

Answer = TypeVar("Answer")


class ControlUnavailableError(Exception):
    """The replicas' common state does not answer."""


class Control(Protocol):
    """The common state as a replica sees it; every method raises ControlUnavailableError when it is out of reach."""

    async def lease_tokens(self, key_id: str, wanted: int) -> TokenLease:
        """See :meth:`serve.access.buckets.Buckets.lease`."""

    async def lease_usd(self, key_id: str, holder: str, sequence: int, needed_nano_usd: int) -> UsdLease:
        """See :meth:`serve.access.ledger.Ledger.lease`."""

    async def report_usd(self, key_id: str, day: str, holder: str, sequence: int, nano_usd: int) -> None:
        """See :meth:`serve.access.ledger.Ledger.report`."""

    async def left_nano_usd(self, key_id: str) -> int:
        """See :meth:`serve.access.ledger.Ledger.left_nano_usd`."""

    async def announce(self) -> int:
        """Ask every replica to look for a new release; return the new generation."""

    async def newer(self, generation: int) -> int:
        """Return the generation as soon as it differs from the known one, or after a while the same."""

    async def tell(self, holder: str, status: dict[str, Any]) -> None:
        """Keep what a replica tells about itself."""

    async def replicas(self) -> dict[str, dict[str, Any]]:
        """Return what each living replica told last."""


class ControlState:
    """The common state itself. Not thread-safe: used from one event loop.

    Args:
        settings: keys with their limits and where budgets are remembered.
        ring: the keys, read already; None reads them.
        now: the time, UTC.

    Raises:
        InputError: bad keys.
    """

    def __init__(
        self,
        settings: AccessSettings,
        ring: KeyRing | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        ring = ring or read_keys(settings) or KeyRing(())
        path = Path(settings.state_dir) / LEDGER_FILE if settings.state_dir else None
        self._buckets = Buckets(ring.keys)
        self._ledger = Ledger(path, ring.keys, settings.slice_share, now)
        self._generation = time.time_ns()
        self._changed = asyncio.Condition()
        self._told: dict[str, tuple[float, dict[str, Any]]] = {}

    async def lease_tokens(self, key_id: str, wanted: int) -> TokenLease:
        """See :class:`Control`."""
        return self._buckets.lease(key_id, wanted)

    async def lease_usd(self, key_id: str, holder: str, sequence: int, needed_nano_usd: int) -> UsdLease:
        """See :class:`Control`."""
        return self._ledger.lease(key_id, holder, sequence, needed_nano_usd)

    async def report_usd(self, key_id: str, day: str, holder: str, sequence: int, nano_usd: int) -> None:
        """See :class:`Control`."""
        self._ledger.report(key_id, day, holder, sequence, nano_usd)

    async def left_nano_usd(self, key_id: str) -> int:
        """See :class:`Control`."""
        return self._ledger.left_nano_usd(key_id)

    async def announce(self) -> int:
        """See :class:`Control`."""
        async with self._changed:
            self._generation += 1
            self._changed.notify_all()
            return self._generation

    async def newer(self, generation: int) -> int:
        """See :class:`Control`."""
        async with self._changed:
            try:
                async with asyncio.timeout(POLL_S):
                    await self._changed.wait_for(lambda: self._generation != generation)
            except TimeoutError:
                pass
            return self._generation

    async def tell(self, holder: str, status: dict[str, Any]) -> None:
        """See :class:`Control`."""
        self._told[holder] = (time.monotonic(), status)

    async def replicas(self) -> dict[str, dict[str, Any]]:
        """See :class:`Control`."""
        oldest = time.monotonic() - FORGET_S
        self._told = {holder: entry for holder, entry in self._told.items() if entry[0] >= oldest}
        return {holder: status for holder, (_, status) in self._told.items()}


class ControlDeployment(ControlState):
    """The common state as a Serve deployment.

    Args:
        settings: values of :class:`serve.settings.access.AccessSettings`.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(AccessSettings.model_validate(settings))


class RemoteControl:
    """The common state behind a Serve handle.

    Args:
        handle: of :class:`ControlDeployment`.
        timeout_s: how long an answer may take.
    """

    def __init__(self, handle: Any, timeout_s: float) -> None:
        self._handle = handle
        self._timeout_s = timeout_s

    async def lease_tokens(self, key_id: str, wanted: int) -> TokenLease:
        """See :class:`Control`."""
        return await self._answer(self._handle.lease_tokens.remote(key_id, wanted))

    async def lease_usd(self, key_id: str, holder: str, sequence: int, needed_nano_usd: int) -> UsdLease:
        """See :class:`Control`."""
        return await self._answer(self._handle.lease_usd.remote(key_id, holder, sequence, needed_nano_usd))

    async def report_usd(self, key_id: str, day: str, holder: str, sequence: int, nano_usd: int) -> None:
        """See :class:`Control`."""
        await self._answer(self._handle.report_usd.remote(key_id, day, holder, sequence, nano_usd))

    async def left_nano_usd(self, key_id: str) -> int:
        """See :class:`Control`."""
        return await self._answer(self._handle.left_nano_usd.remote(key_id))

    async def announce(self) -> int:
        """See :class:`Control`."""
        return await self._answer(self._handle.announce.remote())

    async def newer(self, generation: int) -> int:
        """See :class:`Control`."""
        return await self._answer(self._handle.newer.remote(generation), POLL_S)

    async def tell(self, holder: str, status: dict[str, Any]) -> None:
        """See :class:`Control`."""
        await self._answer(self._handle.tell.remote(holder, status))

    async def replicas(self) -> dict[str, dict[str, Any]]:
        """See :class:`Control`."""
        return await self._answer(self._handle.replicas.remote())

    async def _answer(self, response: Awaitable[Answer], extra_s: float = 0.0) -> Answer:
        async def wait() -> Answer:
            return await response

        try:
            return await asyncio.wait_for(wait(), self._timeout_s + extra_s)
        except Exception as error:
            # Ray reports an actor's death, a timeout and a failure inside in a dozen ways; all mean no answer.
            raise ControlUnavailableError(type(error).__name__) from error
