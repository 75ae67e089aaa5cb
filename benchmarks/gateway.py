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
import asyncio
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

from benchmarks.endpoints import PATHS, free_port
from benchmarks.http_load import post
from benchmarks.serve_paths import start
from benchmarks.serving_bundle import N_MODELS, example_bundle

ASK = [{"role": "user", "content": "Which planet of the Solar System is the largest, and how do we know?"}]
MODEL = "model-00"
LITELLM_START_S = 180.0


class Connection(asyncio.Protocol):
    """A keep-alive connection that notes when an answer begins and when it is complete."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer = b""
        self._began = 0.0
        self._waiter: asyncio.Future[float] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to ask."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc or ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Take in a part of an answer."""
        self._answer += data
        end = self._answer.find(b"\r\n\r\n")
        if end < 0 or len(self._answer) == end + 4:
            return
        if not self._began:
            self._began = time.perf_counter()
        head = self._answer[:end].lower()
        at = head.find(b"content-length:")
        if at >= 0:
            stop = head.find(b"\r\n", at)
            complete = len(self._answer) >= end + 4 + int(head[at + 15 : stop if stop >= 0 else None])
        else:
            complete = self._answer.endswith(b"0\r\n\r\n")
        if complete and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(self._began)

    async def ask(self, request: bytes) -> float:
        """Send a request and return the seconds to the first byte of the answer's body, once it is complete."""
        assert self._transport is not None
        self._answer, self._began = b"", 0.0
        self._waiter = asyncio.get_running_loop().create_future()
        started = time.perf_counter()
        self._transport.write(request)
        began = await self._waiter
        if self._answer[9:12] != b"200":
            raise RuntimeError(f"answered {self._answer[:400]!r}")
        return began - started

    def close(self) -> None:
        """Hang up."""
        assert self._transport is not None
        self._transport.close()


async def connected(port: int) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection


async def first_byte_ms(targets: dict[str, tuple[int, bytes]], rounds: int) -> dict[str, list[float]]:
    """Return times to the first byte, ms: every target once a round, in rotating order."""
    connections = {name: await connected(port) for name, (port, _) in targets.items()}
    names = list(targets)
    found: dict[str, list[float]] = {name: [] for name in names}
    warm_up = max(rounds // 10, 5)
    for turn in range(rounds + warm_up):
        for offset in range(len(names)):
            name = names[(turn + offset) % len(names)]
            seconds = await connections[name].ask(targets[name][1])
            if turn >= warm_up:
                found[name].append(seconds * 1e3)
    for connection in connections.values():
        connection.close()
    return found


async def rate(port: int, request: bytes, clients: int, seconds: float) -> float:
    """Return the answers per second that ``clients`` closed-loop connections get."""

    async def loop(end: float) -> int:
        connection = await connected(port)
        count = 0
        while time.perf_counter() < end:
            await connection.ask(request)
            count += 1
        connection.close()
        return count

    started = time.perf_counter()
    counts = await asyncio.gather(*(loop(started + seconds) for _ in range(clients)))
    return sum(counts) / (time.perf_counter() - started)


async def rates(
    targets: dict[str, tuple[int, bytes]], clients: int, seconds: float, blocks: int
) -> dict[str, float]:
    """Return each target's median rate over alternating blocks."""
    found: dict[str, list[float]] = {name: [] for name in targets}
    for _ in range(blocks):
        for name, (port, request) in targets.items():
            found[name].append(await rate(port, request, clients, seconds / blocks))
    return {name: float(np.median(values)) for name, values in found.items()}


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


def first_line(process: subprocess.Popen[str], name: str) -> dict[str, object]:
    """Return the JSON that a process prints once it answers."""
    assert process.stdout is not None
    line = next((found for found in process.stdout if found.startswith("{")), None)
    if line is None:
        raise RuntimeError(f"{name} did not start")
    found: dict[str, object] = json.loads(line)
    return found


def stop(process: subprocess.Popen[str]) -> None:
    """End a process that stops when its input closes, or else when it is told to."""
    if process.stdin is not None:
        process.stdin.close()
    else:
        process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()


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
    root = Path(__file__).resolve().parents[1]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream_port = free_port()
        command = [sys.executable, "-m", "benchmarks.mock_upstream", "--port", str(upstream_port)]
        upstream = subprocess.Popen(
            [*command, "--events", str(options.events)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
        )
        stack.callback(stop, upstream)
        first_line(upstream, "the provider")
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
            process = start(path, settings, 1, folder / f"{path}.log")
            stack.callback(stop, process)
            answers = first_line(process, f"path {path}")["route"]
            assert isinstance(answers, list)
            ports[path] = (int(answers[0]), "tradewind")
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
            targets[name] = (port, request)
        first_ms = asyncio.run(first_byte_ms(targets, options.rounds))
        per_s = asyncio.run(rates(targets, options.clients, options.seconds, options.blocks))
        line |= summary(first_ms, per_s, kind)
    return line


if __name__ == "__main__":
    sys.exit(main())
