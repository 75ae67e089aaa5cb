"""Latency and throughput of ``/v1/route`` against a no-op deployment of the same request and response shape.

    python benchmarks/serve.py [--rounds 300] [--seconds 8] [--bundle runs/example/policy]

Both run in one Ray Serve behind one proxy, on loopback, and are measured alternately, so that a noisy machine
weighs on both alike. The endpoint records every decision in its journal on disk before it answers. Without
``--bundle`` an outcome model with random weights decides over eleven models: its cost is that of a trained one. Prints
one JSON line. ``cached`` repeats one prompt, ``fresh`` never repeats; in process means the same work without HTTP and
Ray.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# Before this script's folder, where `serve` would be this very file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import on_ray
from benchmarks.http_load import each, latencies_ms, post, rates, repeated
from benchmarks.noop import ROUTE_PATH
from benchmarks.processes import ROOT, free_port
from benchmarks.rotation import rotation
from benchmarks.serving_bundle import example_bundle
from policies.bundle import RouterBundle
from policies.bundle_encoder import load_bundle_encoder

WORDS_PER_PROMPT = 40
CLIENTS = 8
WORDS = (
    "model", "price", "answer", "sum", "river", "planet", "write", "code", "date", "city", "count", "list",
    "first", "table", "hour", "proof", "translate", "explain", "number", "letter", "market", "ocean",
)  # fmt: skip


def prompts(seed: int) -> Iterator[str]:
    """Yield texts that never repeat."""
    rng = np.random.default_rng(seed)
    number = 0
    while True:
        number += 1
        yield f"Question {seed}-{number}: " + " ".join(rng.choice(WORDS, WORDS_PER_PROMPT))


def in_process(bundle_dir: Path, rounds: int) -> dict[str, float]:
    import torch

    from serve.decider import Decider

    torch.set_num_threads(1)
    bundle = RouterBundle.load(bundle_dir)
    encoder = load_bundle_encoder(bundle, batch_tokens=1024)
    decider = Decider(bundle)
    fresh = prompts(3)
    vector = encoder.encode([next(fresh)])[0]

    found: dict[str, list[float]] = {"decide": [], "encode_and_decide": []}
    for name, turn in rotation(found, rounds):
        prompt = next(fresh)
        started = time.perf_counter()
        embedding = vector if name == "decide" else encoder.encode([prompt])[0]
        decider.decide(embedding, (0.7, 0.3), prompt_tokens=60)
        if turn >= 0:
            found[name].append((time.perf_counter() - started) * 1e3)
    return {name: float(np.median(values)) for name, values in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=8.0, help="per kind, for throughput")
    parser.add_argument("--bundle", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # Workers look for modules where the driver was started.
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as scratch:
        bundle_dir = (options.bundle or example_bundle(Path(scratch) / "policy")).absolute()
        load_before = os.getloadavg()[0]
        inside = in_process(bundle_dir, options.rounds)
        settings = {
            "bundle": str(bundle_dir),
            "num_cpus_per_replica": 0.5,
            "log": {"directory": str(Path(scratch) / "log")},
        }
        port = free_port()
        try:
            on_ray.start(settings, port, num_cpus=2)
            on_ray.add_noop(port)
            fresh = prompts(1)
            cached = {"prompt": next(fresh), "w_cost": 0.3}
            kinds = {
                "noop": (port, repeated(post(on_ray.NOOP_PATH, cached))),
                "cached": (port, repeated(post(ROUTE_PATH, cached))),
                "fresh": (port, each(post(ROUTE_PATH, {**cached, "prompt": prompt}) for prompt in fresh)),
            }
            found = latencies_ms(kinds, options.rounds)
            rate = rates(kinds, clients=CLIENTS, seconds=options.seconds, blocks=4)
        finally:
            on_ray.stop()
    p50 = {name: float(np.median(values)) for name, values in found.items()}
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
