"""The Ray Serve application: replicas that load the policy and the encoder and decide where requests arrive."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from policies.bundle_encoder import load_bundle_encoder
from serve.api import create_app
from serve.decider import Decider
from serve.embedding import Embedder
from serve.registry import load_bundle
from serve.settings import ServeSettings

APP_NAME = "tradewind"


class RouterReplica:
    """One process that answers the API.

    Args:
        settings: values of :class:`serve.settings.ServeSettings`.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = ServeSettings.parse(settings)
        bundle = load_bundle(self.settings)
        encoder = load_bundle_encoder(
            bundle,
            batch_tokens=self.settings.encoder_batch_tokens,
            backend=self.settings.encoder_backend,
            threads=self.settings.encoder_threads,
        )
        # The first forward pass compiles and allocates; no caller should wait for that.
        encoder.encode(["warm up"])
        self.decider = Decider(bundle, self.settings.decision)
        self.embedder = Embedder(
            encoder,
            cache_entries=self.settings.cache_entries,
            max_batch_size=self.settings.max_batch_size,
            batch_wait_s=self.settings.batch_wait_s,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the HTTP API; Ray Serve calls this after the constructor."""
        return create_app(self.decider, self.embedder, self.settings)


def build(args: dict[str, Any]) -> Application:
    """Return the application; ``serve deploy`` calls this with the ``args`` of a Serve config file.

    Raises:
        InputError: bad settings.
    """
    settings = ServeSettings.parse(args)
    deployment = serve.deployment(
        name="router",
        num_replicas=settings.num_replicas,
        max_ongoing_requests=settings.max_ongoing_requests,
        ray_actor_options={"num_cpus": settings.num_cpus_per_replica},
        logging_config=LoggingConfig(enable_access_log=False),
    )
    return deployment(serve.ingress()(RouterReplica)).bind(settings.model_dump())
