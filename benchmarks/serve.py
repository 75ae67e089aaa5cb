"""Latency and throughput of ``/v1/route`` against a no-op deployment of the same request and response shape.

    python benchmarks/serve.py [--rounds 300] [--seconds 8] [--bundle runs/example/policy]

Both run in one Ray Serve behind one proxy, on loopback, and are measured alternately, so that a noisy machine
weighs on both alike. The endpoint records every decision in its journal on disk before it answers. Without
``--bundle`` an outcome model with random weights decides over eleven models: its cost is that of a trained one. Prints
one JSON line. ``cached`` repeats one prompt, ``fresh`` never repeats; in process means the same work without HTTP and
Ray.
"""

import argparse
import http.client
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response

# Before this script's folder, where `serve` would be this very file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.serving_bundle import example_bundle
from policies.bundle import RouterBundle
from policies.bundle_encoder import load_bundle_encoder

WORDS_PER_PROMPT = 40
CLIENTS = 8
WORDS = (
    "model", "price", "answer", "sum", "river", "planet", "write", "code", "date", "city", "count", "list",
    "first", "table", "hour", "proof", "translate", "explain", "number", "letter", "market", "ocean",
)  # fmt: skip


class NoOp:
    """Reads a request of the same shape and answers with a body of the same size."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def __serve_build_asgi_app__(self) -> Any:
        app = FastAPI()

        @app.post("/v1/route")
        async def route(request: Request) -> Response:
            await request.body()
            return Response(self.answer, media_type="application/json")

        return app


def prompts(seed: int) -> Iterator[str]:
    """Yield texts that never repeat."""
    rng = np.random.default_rng(seed)
    number = 0
    while True:
        number += 1
        yield f"Question {seed}-{number}: " + " ".join(rng.choice(WORDS, WORDS_PER_PROMPT))


class Client:
    """One keep-alive connection: as little client work as Python allows."""

    def __init__(self, port: int, path: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.path = path

    def ask(self, prompt: str) -> bytes:
        body = json.dumps({"prompt": prompt, "w_cost": 0.3})
        self.connection.request("POST", self.path, body, {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"{self.path}: {response.status} {answer[:200]!r}")
        return answer


def timed_ms(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def latencies_ms(kinds: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Measure every kind once a round, in rotating order."""
    names = list(kinds)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + rounds // 10):
        for offset in range(len(names)):
            name = names[(turn + offset) % len(names)]
            elapsed = timed_ms(kinds[name])
            if turn >= rounds // 10:
                found[name].append(elapsed)
    return found


def requests_per_s(port: int, path: str, sources: list[Iterator[str]], seconds: float) -> float:
    """Return the rate that ``CLIENTS`` closed-loop clients reach."""
    counts = [0] * len(sources)
    end = time.perf_counter() + seconds

    def loop(index: int) -> None:
        client = Client(port, path)
        while time.perf_counter() < end:
            client.ask(next(sources[index]))
            counts[index] += 1

    threads = [threading.Thread(target=loop, args=(k,)) for k in range(len(sources))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def repeat(text: str) -> Iterator[str]:
    while True:
        yield text


def start(bundle_dir: Path, log: Path) -> int:
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    from serve.app import build

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # Workers look for modules where the driver was started.
    os.chdir(Path(__file__).resolve().parents[1])
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port), logging_config=quiet)
    arguments = {"bundle": str(bundle_dir), "num_cpus_per_replica": 0.5, "log": {"directory": str(log)}}
    serve.run(build(arguments), name="router", route_prefix="/", logging_config=quiet)
    answer = Client(port, "/v1/route").ask("How long is an answer?")
    noop = serve.deployment(name="noop", ray_actor_options={"num_cpus": 0.5}, max_ongoing_requests=64)(
        serve.ingress()(NoOp)
    )
    serve.run(noop.bind(answer), name="noop", route_prefix="/noop", logging_config=quiet)
    return port


def in_process(bundle_dir: Path, rounds: int) -> dict[str, float]:
    import torch

    from serve.decider import Decider

    torch.set_num_threads(1)
    bundle = RouterBundle.load(bundle_dir)
    encoder = load_bundle_encoder(bundle, batch_tokens=1024)
    decider = Decider(bundle)
    fresh = prompts(3)
    vector = encoder.encode([next(fresh)])[0]

    def decide(embedding: Any = vector) -> None:
        decider.decide(embedding, (0.7, 0.3), prompt_tokens=60)

    found = latencies_ms(
        {"decide": decide, "encode_and_decide": lambda: decide(encoder.encode([next(fresh)])[0])}, rounds
    )
    return {name: float(np.median(values)) for name, values in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=8.0, help="per kind, for throughput")
    parser.add_argument("--bundle", type=Path)
    options = parser.parse_args()
    import ray

    with tempfile.TemporaryDirectory() as scratch:
        bundle_dir = (options.bundle or example_bundle(Path(scratch) / "policy")).absolute()
        load_before = os.getloadavg()[0]
        inside = in_process(bundle_dir, options.rounds)
        port = start(bundle_dir, Path(scratch) / "log")
        try:
            route, noop = Client(port, "/v1/route"), Client(port, "/noop/v1/route")
            fresh = prompts(1)
            cached = next(fresh)
            found = latencies_ms(
                {
                    "noop": lambda: noop.ask(cached),
                    "cached": lambda: route.ask(cached),
                    "fresh": lambda: route.ask(next(fresh)),
                },
                options.rounds,
            )
            rates: dict[str, list[float]] = {"noop": [], "cached": [], "fresh": []}
            blocks = 4
            for block in range(blocks):
                for kind in rates:
                    path = "/noop/v1/route" if kind == "noop" else "/v1/route"
                    sources = [
                        prompts(1_000 * (block + 1) + k) if kind == "fresh" else repeat(cached)
                        for k in range(CLIENTS)
                    ]
                    rates[kind].append(requests_per_s(port, path, sources, options.seconds / blocks))
        finally:
            ray.shutdown()
    p50 = {name: float(np.median(values)) for name, values in found.items()}
    rate = {name: float(np.median(values)) for name, values in rates.items()}
    line = {
        "benchmark": "serve",
        "rounds": options.rounds,
        "clients": CLIENTS,
        "cpus": os.cpu_count(),
        "load_average_before": load_before,
        **{f"{name}_p50_ms": value for name, value in p50.items()},
        **{f"{name}_p99_ms": float(np.quantile(values, 0.99)) for name, values in found.items()},
        "cached_over_noop_p50": p50["cached"] / p50["noop"],
        "fresh_minus_noop_p50_ms": p50["fresh"] - p50["noop"],
        "in_process_decide_p50_ms": inside["decide"],
        "in_process_encode_and_decide_p50_ms": inside["encode_and_decide"],
        **{f"{name}_requests_per_s": value for name, value in rate.items()},
        "cached_over_noop_requests_per_s": rate["cached"] / rate["noop"],
    }
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
