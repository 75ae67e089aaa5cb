"""What the gateway adds to calling a provider directly, beside LiteLLM's proxy.

    python -m benchmarks.gateway [--paths uvicorn default haproxy] [--litellm /opt/litellm/bin/litellm]

A provider that answers at once, the gateway on every path, and LiteLLM's proxy (``pip install 'litellm[proxy]'`` in
an environment of its own) run on loopback in processes of their own and are asked alternately: one request at a time
for the time to the first byte, closed-loop connections for requests per second. The gateway routes every request
(the embedding is remembered) and records every decision; LiteLLM forwards to one model. Prints one JSON line;
``added`` is against the direct call, at the same quantile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks import processes
from benchmarks.endpoints import PATHS, start
from benchmarks.http_load import latencies_ms, post, rates, repeated
from benchmarks.processes import first_line, free_port, stop
from benchmarks.serving_bundle import N_MODELS, example_bundle

ASK = [{"role": "user", "content": "Which planet of the Solar System is the largest, and how do we know?"}]
MODEL = "model-00"
LITELLM_START_S = 180.0


def start_litellm(binary: Path, upstream: str, folder: Path) -> tuple[subprocess.Popen[str], int]:
    """Start LiteLLM's proxy with one worker and return it with its port."""
    port = free_port()
    model = {"model": f"openai/{MODEL}", "api_base": upstream, "api_key": "none"}
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": model}],
        "litellm_settings": {"telemetry": False},
    }
    path = folder / "litellm.yaml"
    path.write_text(json.dumps(config))
    log = (folder / "litellm.log").open("w")
    environment = {
        **os.environ,
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        # Neither proxy checks keys; without a word on it LiteLLM does not start.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    process = subprocess.Popen(
        [
            str(binary),
            "--config",
            str(path),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--num_workers",
            "1",
        ],
        stdout=log,
        stderr=log,
        text=True,
        env=environment,
    )
    end = time.monotonic() + LITELLM_START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=2):
                return process, port
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    process.kill()
    raise RuntimeError(f"LiteLLM did not start: {(folder / 'litellm.log').read_text()[-2000:]}")


def summary(first_ms: dict[str, list[float]], per_s: dict[str, float], kind: str) -> dict[str, float]:
    """Return the figures of one kind of answer, ``plain`` or ``stream``."""
    line: dict[str, float] = {}
    quantiles = {
        name: {q: float(np.quantile(values, q)) for q in (0.5, 0.99)} for name, values in first_ms.items()
    }
    for name, found in quantiles.items():
        for q, label in ((0.5, "p50"), (0.99, "p99")):
            line[f"{name}_{kind}_first_byte_{label}_ms"] = round(found[q], 3)
            if name != "direct":
                line[f"{name}_{kind}_added_{label}_ms"] = round(found[q] - quantiles["direct"][q], 3)
        line[f"{name}_{kind}_requests_per_s"] = round(per_s[name], 1)
    if "litellm" in quantiles:
        for name in quantiles.keys() - {"direct", "litellm"}:
            line[f"{name}_{kind}_requests_over_litellm"] = round(per_s[name] / per_s["litellm"], 2)
            added = line[f"{name}_{kind}_added_p99_ms"] / line[f"litellm_{kind}_added_p99_ms"]
            line[f"{name}_{kind}_added_p99_over_litellm"] = round(added, 3)
    return line


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--paths", nargs="+", choices=PATHS, default=["uvicorn", "default"])
    parser.add_argument("--litellm", type=Path, help="the litellm command; without it there is no comparison")
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=12.0, help="per target and kind, for throughput")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--events", type=int, default=20, help="of a stream")
    parser.add_argument("--bundle", type=Path, help="policy artifact; default: a network over eleven models")
    options = parser.parse_args()
    line: dict[str, object] = {
        "benchmark": "gateway",
        "clients": options.clients,
        "events": options.events,
        "cpus": os.cpu_count(),
        "load_average_before": os.getloadavg()[0],
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream_port, log = free_port(), folder / "provider.log"
        arguments = ["--port", str(upstream_port), "--events", str(options.events)]
        upstream = processes.start("mock_upstream", arguments, log)
        stack.callback(stop, upstream)
        first_line(upstream, log)
        url = f"http://127.0.0.1:{upstream_port}/v1"
        bundle = options.bundle or example_bundle(folder / "policy")
        place = {f"model-{k:02d}": {"base_url": url} for k in range(N_MODELS)}
        settings: dict[str, object] = {
            "bundle": str(Path(bundle).absolute()),
            "num_cpus_per_replica": 0.5,
            "gateway": {"upstreams": place},
        }
        ports = {"direct": (upstream_port, MODEL)}
        for path in options.paths:
            log = folder / f"{path}.log"
            process = start(path, settings, 1, log)
            stack.callback(stop, process)
            ports[path] = (first_line(process, log)["route"][0], "tradewind")
        if options.litellm is not None:
            process, port = start_litellm(options.litellm, url, folder)
            stack.callback(stop, process)
            ports["litellm"] = (port, MODEL)
        line |= measured(ports, options)
    print(json.dumps(line))
    return 0


def measured(ports: dict[str, tuple[int, str]], options: argparse.Namespace) -> dict[str, float]:
    """Return all figures; ``ports`` gives each target's port and the model to ask it for."""
    line: dict[str, float] = {}
    for kind in ("plain", "stream"):
        targets = {}
        for name, (port, model) in ports.items():
            body = {"model": model, "messages": ASK, **({"stream": True} if kind == "stream" else {})}
            request = post("/v1/chat/completions", body, {"authorization": "Bearer none"})
            targets[name] = (port, repeated(request))
        first_ms = latencies_ms(targets, options.rounds, first_byte=True)
        per_s = rates(targets, clients=options.clients, seconds=options.seconds, blocks=options.blocks)
        line |= summary(first_ms, per_s, kind)
    return line


if __name__ == "__main__":
    sys.exit(main())
