"""Starts one endpoint in a process of its own and serves until told to stop: what serving benchmarks measure.

    python -m benchmarks.endpoints --path haproxy --bundle runs/example/policy --replicas 1

Prints one JSON line with the port once it answers, and stops when its standard input closes. Each path is a way
of getting a request to the same application:

- ``uvicorn``: no Ray, one process;
- ``default``: Ray Serve's Python proxy;
- ``lean``: the same with user code, router and proxy on one loop each and without separate threads;
- ``haproxy``: HAProxy in front of the replicas' own HTTP servers.

Every path also serves a no-op of the same request and response shape, under ``/noop`` on Ray, on a second port
without it.
"""

# No postponed annotations: Ray ships the no-op by value, and FastAPI must find its types there.

import argparse
import asyncio
import contextlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response

PATHS = ("uvicorn", "default", "lean", "haproxy")

ENVIRONMENT = {
    "uvicorn": {},
    "default": {},
    "lean": {
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    },
    "haproxy": {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    },
}
"""What Ray Serve reads when its processes start."""

QUESTION = {"prompt": "How long is an answer?", "w_cost": 0.3}


def noop_app(answer: bytes) -> FastAPI:
    """Return an application that reads the body and answers with fixed bytes."""
    app = FastAPI()

    @app.post("/v1/route")
    async def route(request: Request) -> Response:
        await request.body()
        return Response(answer, media_type="application/json")

    return app


class NoOp:
    """The no-op as a deployment."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def __serve_build_asgi_app__(self) -> Any:
        return noop_app(self.answer)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve_on_ray(settings: dict[str, Any], replicas: int) -> None:
    """Run application and no-op behind one proxy until standard input closes."""
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    from benchmarks.http_load import ask, post
    from serve.app import build

    port = free_port()
    quiet = LoggingConfig(enable_access_log=False, log_level="ERROR")
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=200 * 2**20,
    )
    try:
        serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port), logging_config=quiet)
        serve.run(
            build({**settings, "num_replicas": replicas}),
            name="router",
            route_prefix="/",
            logging_config=quiet,
        )
        answer = ask(port, post("/v1/route", QUESTION))
        noop = serve.deployment(name="noop", num_replicas=replicas, max_ongoing_requests=64)(
            serve.ingress()(NoOp)
        )
        serve.run(noop.bind(answer), name="noop", route_prefix="/noop", logging_config=quiet)
        ask(port, post("/noop/v1/route", QUESTION))
        print(json.dumps({"route": [port, "/v1/route"], "noop": [port, "/noop/v1/route"]}), flush=True)
        sys.stdin.read()
    finally:
        with contextlib.suppress(Exception):
            serve.shutdown()
        ray.shutdown()


def serve_on_uvicorn(settings: dict[str, Any]) -> None:
    """Run application and no-op on two ports of one process until standard input closes."""
    import uvicorn

    from serve.api.application import create_app
    from serve.runtime import Runtime
    from serve.settings import ServeSettings

    async def main() -> None:
        app = create_app(Runtime.open(ServeSettings.parse(settings)))
        ports = free_port(), free_port()
        example = b'{"decision_id":"' + b"x" * 900 + b'"}'
        servers = []
        for port, application in zip(ports, (app, noop_app(example)), strict=True):
            config = uvicorn.Config(
                application, host="127.0.0.1", port=port, log_level="warning", access_log=False
            )
            servers.append(uvicorn.Server(config))
        tasks = [asyncio.create_task(server.serve()) for server in servers]
        while not all(server.started for server in servers):
            await asyncio.sleep(0.05)
        print(json.dumps({"route": [ports[0], "/v1/route"], "noop": [ports[1], "/v1/route"]}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)

    # uvloop where it is installed, which is what `uvicorn` itself would run on.
    with asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory()) as runner:
        runner.run(main())


def main() -> int:
    """Serve one path."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--path", choices=PATHS, required=True)
    parser.add_argument("--settings", type=json.loads, required=True, help="serve settings, JSON")
    parser.add_argument("--replicas", type=int, default=1)
    options = parser.parse_args()
    os.chdir(Path(__file__).resolve().parents[1])
    if options.path == "uvicorn":
        serve_on_uvicorn(options.settings)
    else:
        serve_on_ray(options.settings, options.replicas)
    return 0


if __name__ == "__main__":
    sys.exit(main())
