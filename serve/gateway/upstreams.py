"""The endpoints behind the models of a pool, and whether they may be called."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import get_args

from yarl import URL

from policies.errors import InputError
from policies.pool import ModelPool, ModelSpec
from serve.gateway.breaker import Breaker
from serve.gateway.request import Kind
from serve.settings.gateway import GatewaySettings, UpstreamSettings

NO_ENDPOINT = "it has no endpoint"
MAX_OFFERS = 16


@dataclass(frozen=True)
class Upstream:
    """Where one model is called.

    Attributes:
        name: the model's name in the pool.
        base_url: of an OpenAI-compatible API, without a slash at the end.
        model: its name there.
        stream_usage: whether it can be asked for token counts at the end of streams.
        breaker: keeps calls off while it fails.
        key: what it wants to see in the Authorization header; never shown.
    """

    name: str
    base_url: str
    model: str
    stream_usage: bool
    breaker: Breaker
    key: str | None = field(default=None, repr=False)

    @cached_property
    def urls(self) -> dict[str, URL]:
        """Address of each kind of call."""
        return {kind: URL(f"{self.base_url}/{kind}") for kind in get_args(Kind)}

    @cached_property
    def headers(self) -> dict[str, str]:
        """Headers of a call."""
        # Bytes are handed on as they come: they must not come compressed.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        return {**headers, "Authorization": f"Bearer {self.key}"} if self.key else headers

    @cached_property
    def stream_headers(self) -> dict[str, str]:
        """Headers of a call whose answer comes in events."""
        return {**self.headers, "Accept": "text/event-stream"}

    def redacted(self, text: str) -> str:
        """Return a text without the key: some APIs repeat it in what they answer."""
        return text.replace(self.key, "***") if self.key else text


@dataclass(frozen=True)
class Offer:
    """What the gateway can do with a pool.

    Attributes:
        pool: the models.
        models: those that have an upstream, None when all have one.
        tags: all capabilities that the pool names.
    """

    pool: ModelPool
    models: tuple[str, ...] | None
    tags: frozenset[str]


class Upstreams:
    """Finds the upstream of each model. Circuit breakers outlive a change of the policy.

    Args:
        settings: of the gateway.
        environment: where keys are looked up.
    """

    def __init__(self, settings: GatewaySettings, environment: Mapping[str, str] = os.environ) -> None:
        self._settings = settings
        self._environment = environment
        self._upstreams: dict[tuple[str, str | None], Upstream | str] = {}
        self._offers: dict[int, Offer] = {}

    def check(self, pool: ModelPool) -> None:
        """Check the settings against the pool that is served.

        Raises:
            InputError: they name a model that the pool does not have, or an environment variable that is not set.
        """
        unknown = [model for model in self._settings.upstreams if model not in pool.models]
        if unknown:
            raise InputError(
                f"gateway.upstreams.{unknown[0]}: no such model; allowed: {', '.join(pool.models)}"
            )
        for spec in pool.specs:
            found = self.of(spec)
            if isinstance(found, str) and found != NO_ENDPOINT:
                raise InputError(f"gateway: model '{spec.name}': {found}")

    def of(self, spec: ModelSpec) -> Upstream | str:
        """Return a model's upstream, or why it cannot be called at all."""
        place = (spec.name, spec.endpoint)
        found = self._upstreams.get(place)
        if found is None:
            found = self._upstreams[place] = self._made(spec)
        return found

    def known(self) -> list[Upstream]:
        """Return the upstreams that were asked for so far."""
        return [found for found in self._upstreams.values() if isinstance(found, Upstream)]

    def resting(self) -> dict[str, str]:
        """Return the models that must not be called for a while, and why."""
        reasons = {}
        for found in self._upstreams.values():
            if isinstance(found, Upstream) and not found.breaker.allows:
                wait = math.ceil(found.breaker.retry_after_s)
                reasons[found.name] = f"its upstream failed lately; tried again in {wait} s"
        return reasons

    def offer(self, pool: ModelPool) -> Offer:
        """Return what the gateway can do with a pool."""
        known = self._offers.get(id(pool))
        if known is None or known.pool is not pool:
            # Few pools are in use at a time; those of the past must not pile up.
            if len(self._offers) >= MAX_OFFERS:
                self._offers.clear()
            names = tuple(spec.name for spec in pool.specs if isinstance(self.of(spec), Upstream))
            models = None if len(names) == len(pool.specs) else names
            tags = frozenset(tag for spec in pool.specs for tag in spec.tags)
            known = self._offers[id(pool)] = Offer(pool, models, tags)
        return known

    def _made(self, spec: ModelSpec) -> Upstream | str:
        own = self._settings.upstreams.get(spec.name, UpstreamSettings())
        base_url = (own.base_url or spec.endpoint or "").rstrip("/")
        if not base_url:
            return NO_ENDPOINT
        variable = own.api_key_env or self._settings.api_key_envs.get(base_url)
        key = self._environment.get(variable, "").strip() if variable else None
        if key is not None and not (key and key.isascii() and key.isprintable()):
            return f"environment variable {variable} is not set to a key"
        breaker = Breaker(self._settings.breaker)
        return Upstream(spec.name, base_url, own.model or spec.name, own.stream_usage, breaker, key)
