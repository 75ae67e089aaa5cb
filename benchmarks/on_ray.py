"""The application, and a no-op of the same request and answer, behind one proxy of a Ray of their own."""

from __future__ import annotations

import contextlib
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig

from benchmarks.http_load import ask, post
from benchmarks.noop import QUESTION, ROUTE_PATH, noop_app
from serve.app import APP_NAME, build

NOOP_PREFIX = "/noop"
NOOP_PATH = NOOP_PREFIX + ROUTE_PATH
QUIET = LoggingConfig(enable_access_log=False, log_level="ERROR")
OBJECT_STORE_BYTES = 200 * 2**20


class NoOp:
    """The no-op as a deployment."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def __serve_build_asgi_app__(self) -> FastAPI:
        return noop_app(self.answer)


def start(settings: dict[str, Any], port: int, num_cpus: int) -> None:
    """Serve the application at a port, with a Ray of ``num_cpus`` logical CPUs."""
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=OBJECT_STORE_BYTES,
    )
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port), logging_config=QUIET)
    serve.run(build(settings), name=APP_NAME, route_prefix="/", logging_config=QUIET)


def add_noop(port: int, replicas: int = 1) -> None:
    """Serve the no-op beside it; its answer is one of the application's own."""
    answer = ask(port, post(ROUTE_PATH, QUESTION))
    noop = serve.deployment(
        name="noop", num_replicas=replicas, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.5}
    )(serve.ingress()(NoOp))
    serve.run(noop.bind(answer), name="noop", route_prefix=NOOP_PREFIX, logging_config=QUIET)
    ask(port, post(NOOP_PATH, QUESTION))


def stop() -> None:
    """Let the replicas write what they hold, and end. Harmless when nothing was started."""
    if ray.is_initialized():
        with contextlib.suppress(Exception):
            serve.shutdown()
        ray.shutdown()
