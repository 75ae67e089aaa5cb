"""The Ray Serve application: replicas that load the policy and the encoder and decide where requests arrive."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from serve.api.application import create_app
from serve.runtime import Runtime
from serve.settings import ServeSettings

APP_NAME = "tradewind"


class RouterReplica:
    """One process that answers the API.

    Args:
        settings: values of :class:`serve.settings.ServeSettings`.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.runtime = Runtime.open(ServeSettings.parse(settings))

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the HTTP API; Ray Serve calls this after the constructor."""
        return create_app(self.runtime)


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
