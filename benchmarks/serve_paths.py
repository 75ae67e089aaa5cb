"""What each way of serving costs: plain uvicorn, Ray Serve's proxy, its leaner settings, HAProxy mode.

    python -m benchmarks.serve_paths [--paths uvicorn default haproxy] [--replicas 1] [--seconds 12]

The same application and a no-op of the same shape run on every path at once, each path in processes of its own,
and are measured alternately on loopback. The embedding is remembered, so that what is compared is the way of a
request to the decision and back. Prints one JSON line with p50 and p99 latencies at one request at a time, and
medians of requests per second with ``--clients`` closed-loop connections.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.endpoints import PATHS, start
from benchmarks.http_load import latencies_ms, post, rates, repeated
from benchmarks.noop import QUESTION
from benchmarks.processes import first_line, stop
from benchmarks.serving_bundle import example_bundle


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--paths", nargs="+", choices=PATHS, default=["uvicorn", "default", "haproxy"])
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=12.0, help="per kind, for throughput")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--bundle", type=Path, help="policy artifact; default: a network over eleven models")
    options = parser.parse_args()
    line: dict[str, object] = {
        "benchmark": "serve_paths",
        "replicas": options.replicas,
        "clients": options.clients,
        "cpus": os.cpu_count(),
        "load_average_before": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory() as scratch:
        bundle = options.bundle or example_bundle(Path(scratch) / "policy")
        settings = {"bundle": str(Path(bundle).absolute()), "num_cpus_per_replica": 0.5}
        logs = {path: Path(scratch) / f"{path}.log" for path in options.paths}
        processes = {path: start(path, settings, options.replicas, logs[path]) for path in options.paths}
        try:
            kinds = {}
            for path, process in processes.items():
                for kind, (port, url) in first_line(process, logs[path]).items():
                    kinds[f"{path}_{kind}"] = (port, repeated(post(url, QUESTION)))
            latencies = latencies_ms(kinds, options.rounds)
            rate = rates(kinds, clients=options.clients, seconds=options.seconds, blocks=4)
        finally:
            for process in processes.values():
                stop(process)
    for name, values in latencies.items():
        line[f"{name}_p50_ms"] = round(float(np.median(values)), 3)
        line[f"{name}_p99_ms"] = round(float(np.quantile(values, 0.99)), 3)
        line[f"{name}_requests_per_s"] = round(rate[name], 1)
    for path in options.paths:
        p50 = {kind: float(np.median(latencies[f"{path}_{kind}"])) for kind in ("route", "noop")}
        line[f"{path}_route_over_noop_p50"] = round(p50["route"] / p50["noop"], 3)
        line[f"{path}_route_over_noop_requests_per_s"] = round(
            rate[f"{path}_route"] / rate[f"{path}_noop"], 3
        )
        if "uvicorn" in options.paths and path != "uvicorn":
            line[f"{path}_over_uvicorn_requests_per_s"] = round(
                rate[f"{path}_route"] / rate["uvicorn_route"], 3
            )
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
