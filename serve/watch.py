"""Keeps a replica's releases up to date, and the other replicas informed."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from policies.errors import InputError
from serve.control import Control, ControlUnavailableError
from serve.metrics import Metrics
from serve.releases import Releases

logger = logging.getLogger(__name__)

TELL_S = 2.0
RETRY_S = 1.0


class Watch:
    """Looks for new releases from time to time and when another replica was told of one.

    Args:
        releases: kept up to date.
        control: tells when to look.
        metrics: counts attempts.
        poll_s: how often to look unasked; 0 means never.
    """

    def __init__(
        self,
        releases: Releases,
        control: Control,
        metrics: Metrics,
        poll_s: float,
    ) -> None:
        self._releases = releases
        self._control = control
        self._metrics = metrics
        self._holder = uuid.uuid4().hex[:12]
        self._poll_s = poll_s
        releases.on_change.append(lambda current: metrics.set_releases(current.versions()))
        metrics.set_releases(releases.current.versions())

    async def reload(self) -> bool:
        """Load what should be served now and ask the other replicas to do so; return whether anything changed.

        Raises:
            InputError: it cannot be loaded; nothing changes.
        """
        changed = await self._look()
        try:
            await self._control.announce()
        except ControlUnavailableError:
            logger.warning("the other replicas could not be told of a new release; they look every poll_s")
        return changed

    async def replicas(self) -> dict[str, dict[str, Any]]:
        """Return what each living replica told last; only this one's when nobody knows of others."""
        try:
            await self._control.tell(self._holder, self._status())
            return await self._control.replicas()
        except ControlUnavailableError:
            return {self._holder: self._status()}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look and tell in the background."""
        tasks = [asyncio.create_task(work()) for work in (self._listen, self._tell)]
        if self._poll_s > 0:
            tasks.append(asyncio.create_task(self._poll()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _status(self) -> dict[str, Any]:
        current = self._releases.current
        return {
            "releases": current.versions(),
            "canary_percent": current.canary_percent if current.canary else 0.0,
            "loaded_at": self._releases.loaded_at.isoformat(),
            "error": self._releases.error,
        }

    async def _look(self) -> bool:
        try:
            changed = await self._releases.reload()
        except InputError:
            self._metrics.reloaded("failed")
            raise
        if changed:
            self._metrics.reloaded("ok")
        return changed

    async def _look_quietly(self) -> None:
        known = self._releases.error
        try:
            await self._look()
        except InputError as error:
            # Told once and not at every poll: it stays wrong until somebody registers anew.
            if str(error) != known:
                logger.warning("new release not taken, the old one stays: %s", error)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            await self._look_quietly()

    async def _listen(self) -> None:
        generation: int | None = None
        while True:
            try:
                newest = await self._control.newer(-1 if generation is None else generation)
            except ControlUnavailableError:
                await asyncio.sleep(RETRY_S)
                continue
            # The first answer only tells where the others are; a restarted common state starts elsewhere.
            if generation is not None and newest != generation:
                await self._look_quietly()
            generation = newest

    async def _tell(self) -> None:
        while True:
            try:
                await self._control.tell(self._holder, self._status())
            except ControlUnavailableError:
                logger.debug("nobody to tell")
            await asyncio.sleep(TELL_S)
