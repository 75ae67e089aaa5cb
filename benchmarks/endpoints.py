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

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.noop import ROUTE_PATH, noop_app
from benchmarks.processes import ROOT, free_port

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


def start(path: str, settings: dict[str, object], replicas: int, log: Path) -> subprocess.Popen[str]:
    """Start this module for a path; its first line of output tells where it answers."""
    arguments = ["--path", path, "--replicas", str(replicas), "--settings", json.dumps(settings)]
    return processes.start("endpoints", arguments, log, {**ENVIRONMENT[path], "RAY_AUTH_MODE": "disabled"})


def serve_on_ray(settings: dict[str, Any], replicas: int) -> None:
    """Run application and no-op behind one proxy until standard input closes."""
    from benchmarks import on_ray

    port = free_port()
    try:
        on_ray.start({**settings, "num_replicas": replicas}, port, num_cpus=8)
        on_ray.add_noop(port, replicas)
        print(json.dumps({"route": [port, ROUTE_PATH], "noop": [port, on_ray.NOOP_PATH]}), flush=True)
        sys.stdin.read()
    finally:
        on_ray.stop()


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
        print(json.dumps({"route": [ports[0], ROUTE_PATH], "noop": [ports[1], ROUTE_PATH]}), flush=True)
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
    os.chdir(ROOT)
    if options.path == "uvicorn":
        serve_on_uvicorn(options.settings)
    else:
        serve_on_ray(options.settings, options.replicas)
    return 0


if __name__ == "__main__":
    sys.exit(main())
