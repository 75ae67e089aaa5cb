"""Everything that one replica holds, put together once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Self

from serve.access.access import Access
from serve.access.keys import read_keys
from serve.control import Control, ControlState
from serve.gateway.gateway import Gateway
from serve.journal.export import Exporter
from serve.journal.journal import Journal
from serve.metrics import Metrics
from serve.releases import Releases
from serve.service import RoutingService
from serve.settings import ServeSettings
from serve.tracing import Tracing
from serve.watch import Watch


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
        gateway: answers chat requests with the models of the pool.
        watch: looks for new releases.
    """

    settings: ServeSettings
    releases: Releases
    journal: Journal
    service: RoutingService
    metrics: Metrics
    access: Access
    gateway: Gateway
    watch: Watch

    @classmethod
    def open(cls, settings: ServeSettings, control: Control | None = None) -> Self:
        """Load what the settings name.

        Args:
            settings: as checked.
            control: what the replicas have in common; None when this is the only one.

        Raises:
            InputError: there is no such policy, its encoder is not available, or bad keys.
        """
        ring = read_keys(settings.access)
        control = control or ControlState(settings.access, ring)
        access = Access(settings.access, ring, control, settings.replicas_at_most)
        releases = Releases.open(settings)
        journal = Journal.open(settings.log)
        metrics = Metrics(settings.metrics.propensity_floor)
        if settings.metrics.traces:
            metrics.tracing = Tracing.open()
        embeddings = releases.champion.embedder.cache
        metrics.probes += [
            lambda: metrics.set_embeddings(embeddings.hits, embeddings.misses),
            lambda: metrics.set_journal_backlog(journal.backlog()),
        ]
        service = RoutingService(releases, journal, metrics, settings.routing.sessions)
        gateway = Gateway.open(
            settings.gateway, releases.champion.bundle.pool, service, journal, metrics, access
        )
        watch = Watch(releases, control, metrics, settings.releases.poll_s)
        return cls(settings, releases, journal, service, metrics, access, gateway, watch)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the background tasks running; on leaving, what was acknowledged is on disk."""
        async with AsyncExitStack() as stack:
            stack.callback(self.journal.close)
            await stack.enter_async_context(Exporter(self.journal).running())
            await stack.enter_async_context(self.metrics.flushing(self.settings.metrics.flush_s))
            await stack.enter_async_context(self.access.running())
            await stack.enter_async_context(self.watch.running())
            await stack.enter_async_context(self.gateway.running())
            yield
