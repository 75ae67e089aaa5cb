"""Ten minutes of mixed traffic with failing providers, reloads and a killed replica; then the books are checked.

    python -m benchmarks.soak [--minutes 10] [--load 0.7] [--paths default]

Two replicas on Ray Serve answer ``/v1/route``, ``/v1/feedback``, and plain and streamed chat completions at 70 % of the
rate that the same mix reached in a closed loop just before. Every minute the policy is exchanged and reloaded, and
in the middle one replica is killed. Prints one JSON line and exits with 1 unless

- every decision and score that was acknowledged is in the exported log, once;
- no request got another's answer;
- no request failed that a healthy provider could have answered. Counted apart: streams that broke off after their
  first byte (callers were told), and requests that were in the killed replica and were sent again;
- memory of the replicas did not grow from the second to the last quarter by more than a tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import pyarrow.dataset as ds

from benchmarks.endpoints import free_port
from benchmarks.faulty_upstream import FaultyUpstream
from benchmarks.serving_bundle import save_bundle
from policies.pool import ModelSpec

MIX = (("route", 0.4), ("chat", 0.4), ("stream", 0.2))
PROMPTS = 200
"""Different prompts: most are remembered, as in traffic that repeats itself, and some are not."""
FAULT_SHARE = 0.3
KILL_WINDOW_S = 30.0
RESENDS = 5
MEMORY_GROWTH = 1.10
SPECS = tuple(
    ModelSpec(f"{kind}-{k}", 0.1 * 1.6**k, 0.4 * 1.6**k)
    for k, kind in enumerate(("steady", "flaky", "flaky", "steady", "flaky", "steady"))
)


@dataclass
class Books:
    """What callers were told."""

    decisions: dict[str, str] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    answered: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    cut_streams: int = 0
    resent: int = 0
    latencies_ms: list[float] = field(default_factory=list)


class Traffic:
    """Sends requests and keeps the books.

    Args:
        session: HTTP client.
        base: URL of the endpoint.
    """

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self._base = base
        self._rng = random.Random(1)
        self._numbers = itertools.count()
        self.books = Books()
        self.killed_at: float | None = None

    async def one(self) -> None:
        """Send one request of the mix; send it again if it was lost with the killed replica."""
        number = next(self._numbers)
        kind = self._rng.choices([k for k, _ in MIX], [p for _, p in MIX])[0]
        started = time.perf_counter()
        for attempt in range(RESENDS):
            try:
                await getattr(self, f"_{kind}")(number)
            except (aiohttp.ClientError, TimeoutError, _LostError) as error:
                if not self._near_kill() or attempt + 1 == RESENDS:
                    self.books.errors[f"{kind}: {type(error).__name__}: {str(error)[:80]}"] += 1
                    return
                self.books.resent += 1
                await asyncio.sleep(0.2 * 2**attempt)
            else:
                self.books.answered[kind] += 1
                self.books.latencies_ms.append((time.perf_counter() - started) * 1e3)
                return

    def _near_kill(self) -> bool:
        return self.killed_at is not None and time.monotonic() - self.killed_at < KILL_WINDOW_S

    def _prompt(self, number: int) -> str:
        # A few prompts in a hundred have never been seen.
        return f"Question {number if number % 50 == 0 else number % PROMPTS}: how far is the Moon?"

    async def _route(self, number: int) -> None:
        body = {
            "prompt": self._prompt(number),
            "w_cost": self._rng.random(),
            "metadata": {"request": str(number)},
        }
        answer = await self._post("/v1/route", body)
        self.books.decisions[answer["decision_id"]] = str(number)
        if number % 2:
            score = round(self._rng.random(), 6)
            await self._post("/v1/feedback", {"decision_id": answer["decision_id"], "score": score})
            self.books.scores[answer["decision_id"]] = score

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self._session.post(self._base + path, json=body) as response:
            text = await response.text()
            if response.status != 200:
                raise _LostError(f"{path} {response.status} {_code(text)}")
            return json.loads(text)

    def _chat_body(self, number: int, **more: Any) -> tuple[dict[str, Any], str]:
        asked = f"{self._prompt(number)} #{number}"
        content = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": asked}]
        w_cost = round(self._rng.random(), 2)
        return {"model": f"tradewind:{w_cost}", "messages": content, **more}, f"echo: {asked}"

    async def _chat(self, number: int) -> None:
        body, expected = self._chat_body(number, metadata={"request": str(number)})
        async with self._session.post(self._base + "/v1/chat/completions", json=body) as response:
            text = await response.text()
            if response.status != 200:
                raise _LostError(f"chat {response.status} {_code(text)}")
            self.books.decisions[response.headers["x-tradewind-decision-id"]] = str(number)
            if json.loads(text)["choices"][0]["message"]["content"] != expected:
                self.books.wrong += 1

    async def _stream(self, number: int) -> None:
        body, expected = self._chat_body(number, stream=True, metadata={"request": str(number)})
        found, told = "", False
        async with self._session.post(self._base + "/v1/chat/completions", json=body) as response:
            if response.status != 200:
                raise _LostError(f"stream {response.status} {_code(await response.text())}")
            self.books.decisions[response.headers["x-tradewind-decision-id"]] = str(number)
            done = False
            async for line in response.content:
                if not line.startswith(b"data: "):
                    continue
                if line.startswith(b"data: [DONE]"):
                    done = True
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    told = True
                else:
                    for choice in event["choices"]:
                        found += choice["delta"].get("content", "")
        if told:
            self.books.cut_streams += 1
            self.books.wrong += not expected.startswith(found)
        elif not done:
            raise _LostError("a stream ended without a word")
        elif found != expected:
            self.books.wrong += 1


class _LostError(Exception):
    """A request that got no proper answer."""


def _code(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return text[:60]


async def closed_loop(traffic: Traffic, seconds: float, clients: int) -> float:
    """Return the rate that so many clients reach without pause."""
    end = time.monotonic() + seconds

    async def loop() -> int:
        count = 0
        while time.monotonic() < end:
            await traffic.one()
            count += 1
        return count

    started = time.monotonic()
    counts = await asyncio.gather(*(loop() for _ in range(clients)))
    return sum(counts) / (time.monotonic() - started)


async def open_loop(traffic: Traffic, rate: float, seconds: float) -> None:
    """Send requests at a fixed mean rate, whether or not earlier ones have been answered."""
    rng = random.Random(2)
    tasks: set[asyncio.Task[None]] = set()
    started = time.monotonic()
    due = 0.0
    while due < seconds:
        due += rng.expovariate(rate)
        await asyncio.sleep(max(started + due - time.monotonic(), 0.0))
        task = asyncio.create_task(traffic.one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        await asyncio.wait(tasks)


class Disturbances:
    """Exchanges the policy every so often, kills one replica, and watches memory."""

    def __init__(
        self, traffic: Traffic, session: aiohttp.ClientSession, base: str, bundles: list[Path]
    ) -> None:
        self._traffic = traffic
        self._session = session
        self._base = base
        self._bundles = bundles
        self.link = bundles[0].parent / "served"
        self.reloads = 0
        self.memory_mb: list[tuple[float, float]] = []
        point(self.link, bundles[0])

    async def reload_every(self, seconds: float) -> None:
        """Exchange the policy."""
        while True:
            await asyncio.sleep(seconds)
            point(self.link, self._bundles[(self.reloads + 1) % len(self._bundles)])
            async with self._session.post(self._base + "/admin/reload") as response:
                answer = await response.json()
                if response.status == 200 and answer["changed"]:
                    self.reloads += 1

    async def kill_after(self, seconds: float) -> None:
        """Kill one replica as the kernel would."""
        await asyncio.sleep(seconds)
        self._traffic.killed_at = time.monotonic()
        os.kill(replicas()[0].pid, signal.SIGKILL)

    async def watch_memory(self) -> None:
        """Note the mean size of a replica every few seconds."""
        started = time.monotonic()
        while True:
            sizes = [process.memory_info().rss for process in replicas()]
            if len(sizes) >= 2:
                self.memory_mb.append((time.monotonic() - started, float(np.mean(sizes)) / 2**20))
            await asyncio.sleep(5.0)


def point(link: Path, folder: Path) -> None:
    """Let a symbolic link name another folder, in one step."""
    staging = link.with_name("served.tmp")
    staging.symlink_to(folder)
    staging.replace(link)


def replicas() -> list[psutil.Process]:
    """Return the processes of the router's replicas that belong to this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "ServeReplica" in process.name() + " ".join(process.cmdline()) and "router" in " ".join(
                process.cmdline()
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


def check_log(folder: Path, books: Books) -> dict[str, int]:
    """Return what the exported log lacks of what callers were told, or has twice."""
    table = ds.dataset(folder, format="parquet").to_table(columns=["event_id", "score"])
    logged = Counter(table["event_id"].to_pylist())
    scores = dict(zip(table["event_id"].to_pylist(), table["score"].to_pylist(), strict=True))
    return {
        "logged": len(logged),
        "lost_decisions": sum(decision not in logged for decision in books.decisions),
        "lost_scores": sum(scores.get(decision) != score for decision, score in books.scores.items()),
        "logged_twice": sum(count > 1 for count in logged.values()),
    }


def start(settings: dict[str, Any], port: int) -> None:
    """Serve on a Ray of our own."""
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    from serve.app import APP_NAME, build

    quiet = LoggingConfig(enable_access_log=False, log_level="ERROR")
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=200 * 2**20,
    )
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port), logging_config=quiet)
    serve.run(build(settings), name=APP_NAME, route_prefix="/", logging_config=quiet)


async def soak(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Run it and return the findings."""
    upstream = FaultyUpstream(FAULT_SHARE)
    await upstream.start()
    bundles = [save_bundle(scratch / f"policy-{seed}", SPECS, seed=seed) for seed in (0, 1)]
    point(scratch / "served", bundles[0])
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    settings = {
        "bundle": str(scratch / "served"),
        "num_replicas": 2,
        "num_cpus_per_replica": 0.5,
        "log": {"directory": str(scratch / "log"), "export_interval_s": 10.0},
        "gateway": {
            "upstreams": {spec.name: {"base_url": upstream.url} for spec in SPECS},
            "first_byte_timeout_s": 4.0,
            "max_models": len(SPECS),
            "attempts": 2,
        },
    }
    await asyncio.to_thread(start, settings, port)
    seconds = options.minutes * 60
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        traffic = Traffic(session, base)
        await closed_loop(traffic, 5.0, options.clients)
        limit = await closed_loop(traffic, options.limit_s, options.clients)
        traffic.books.latencies_ms.clear()
        disturbances = Disturbances(traffic, session, base, bundles)
        background = [
            asyncio.create_task(disturbances.reload_every(min(60.0, seconds / 3))),
            asyncio.create_task(disturbances.kill_after(seconds / 2)),
            asyncio.create_task(disturbances.watch_memory()),
        ]
        await open_loop(traffic, options.load * limit, seconds)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
    await asyncio.to_thread(stop)
    await upstream.stop()
    return findings(options, traffic, disturbances, upstream, limit, scratch / "log" / "export" / "feedback")


def stop() -> None:
    """Let the replicas write what they hold, and end."""
    import ray
    from ray import serve

    serve.shutdown()
    ray.shutdown()


def findings(
    options: argparse.Namespace,
    traffic: Traffic,
    disturbances: Disturbances,
    upstream: FaultyUpstream,
    limit: float,
    log: Path,
) -> dict[str, Any]:
    """Return the line to print."""
    books, seconds = traffic.books, options.minutes * 60
    memory = disturbances.memory_mb
    second = [size for at, size in memory if 0.25 * seconds <= at < 0.5 * seconds]
    last = [size for at, size in memory if at >= 0.75 * seconds]
    growth = float(np.median(last) / np.median(second)) if second and last else float("nan")
    checked = check_log(log, books)
    bad = checked["lost_decisions"] + checked["lost_scores"] + checked["logged_twice"] + books.wrong
    return {
        "benchmark": "soak",
        "minutes": options.minutes,
        "limit_requests_per_s": round(limit, 1),
        "load": options.load,
        "requests": dict(books.answered),
        "p50_ms": round(float(np.median(books.latencies_ms)), 2),
        "p99_ms": round(float(np.quantile(books.latencies_ms, 0.99)), 2),
        "upstream_faults": dict(upstream.faults),
        "reloads": disturbances.reloads,
        "resent_after_kill": books.resent,
        "streams_cut_and_told": books.cut_streams,
        "acknowledged_decisions": len(books.decisions),
        "acknowledged_scores": len(books.scores),
        **checked,
        "answers_of_others": books.wrong,
        "errors": dict(books.errors),
        "memory_mb": round(float(np.median(last)), 1) if last else None,
        "memory_last_over_second_quarter": round(growth, 3),
        "passed": not bad and not books.errors and growth <= MEMORY_GROWTH,
    }


def main() -> int:
    """Soak."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--load", type=float, default=0.7, help="share of the measured limit")
    parser.add_argument("--limit-s", type=float, default=20.0, help="how long the limit is measured")
    parser.add_argument("--clients", type=int, default=16, help="of the closed loop that finds the limit")
    options = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.chdir(Path(__file__).resolve().parents[1])
    with tempfile.TemporaryDirectory() as scratch:
        line = asyncio.run(soak(options, Path(scratch)))
    print(json.dumps(line))
    return 0 if line["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
