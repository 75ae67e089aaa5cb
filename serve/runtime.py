"""Everything that one replica holds, put together once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Self

from serve.access.access import Access
from serve.journal.journal import Journal
from serve.metrics import Metrics
from serve.releases import Release, Releases
from serve.service import RoutingService
from serve.settings import ServeSettings


@dataclass(frozen=True)
class Runtime:
    """The state behind the API of one replica.

    Attributes:
        settings: as checked.
        releases: the policies at hand.
        journal: remembers decisions and outcomes.
        service: decides.
        metrics: figures for Prometheus.
        access: checks callers.
    """

    settings: ServeSettings
    releases: Releases
    journal: Journal
    service: RoutingService
    metrics: Metrics
    access: Access

    @classmethod
    def open(cls, settings: ServeSettings) -> Self:
        """Load what the settings name.

        Raises:
            InputError: there is no such policy, or its encoder is not available.
        """
        releases = Releases(Release.load(settings))
        journal = Journal.open(settings.log)
        metrics = Metrics(settings.metrics.propensity_floor)
        return cls(settings, releases, journal, RoutingService(releases), metrics, Access())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the background tasks running; on leaving, what was acknowledged is on disk."""
        async with AsyncExitStack() as stack:
            stack.callback(self.journal.close)
            await stack.enter_async_context(self.metrics.flushing(self.settings.metrics.flush_s))
            yield
