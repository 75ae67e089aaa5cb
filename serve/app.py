"""The Ray Serve application: replicas that load the policy and the encoder and decide where requests arrive."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from serve.api.application import create_app
from serve.control import ControlDeployment, RemoteControl
from serve.runtime import Runtime
from serve.settings import ServeSettings

APP_NAME = "tradewind"

ROOM_TO_REFUSE = 64
"""Requests that may reach a full replica and be refused there."""


class RouterReplica:
    """One process that answers the API.

    Args:
        settings: values of :class:`serve.settings.ServeSettings`.
        control: handle of what the replicas have in common, None when there is one replica only.
    """

    def __init__(self, settings: dict[str, Any], control: Any = None) -> None:
        checked = ServeSettings.parse(settings)
        remote = RemoteControl(control, checked.access.control_timeout_s) if control is not None else None
        self.runtime = Runtime.open(checked, remote)

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
        # The door of a replica refuses first, and says when to come again.
        max_ongoing_requests=settings.max_ongoing_requests + ROOM_TO_REFUSE,
        max_queued_requests=settings.scaling.max_queued_requests,
        ray_actor_options={"num_cpus": settings.num_cpus_per_replica},
        logging_config=LoggingConfig(enable_access_log=False),
        **settings.scaling.replicas(settings.num_replicas),
    )
    router = deployment(serve.ingress()(RouterReplica))
    if settings.replicas_at_most == 1:
        return router.bind(settings.model_dump())
    settings = settings.model_copy(update={"log": settings.log.shared()})
    return router.bind(settings.model_dump(), control_deployment(settings))


def control_deployment(settings: ServeSettings) -> Application:
    """Return what the replicas have in common: always one process, or limits would not be."""
    deployment = serve.deployment(
        name="control",
        num_replicas=1,
        max_ongoing_requests=10_000,
        ray_actor_options={"num_cpus": 0},
        logging_config=LoggingConfig(enable_access_log=False),
    )
    return deployment(ControlDeployment).bind(settings.access.model_dump())
