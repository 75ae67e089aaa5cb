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
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import pyarrow.dataset as ds

from benchmarks import on_ray
from benchmarks.faulty_upstream import FaultyUpstream
from benchmarks.processes import ROOT, free_port
from benchmarks.serving_bundle import save_bundle
from benchmarks.soak_traffic import Books, Traffic, closed_loop, open_loop
from policies.pool import ModelSpec

FAULT_SHARE = 0.3
MEMORY_GROWTH = 1.10
SPECS = tuple(
    ModelSpec(f"{kind}-{k}", 0.1 * 1.6**k, 0.4 * 1.6**k)
    for k, kind in enumerate(("steady", "flaky", "flaky", "steady", "flaky", "steady"))
)


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
    await asyncio.to_thread(on_ray.start, settings, port, num_cpus=4)
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
    await asyncio.to_thread(on_ray.stop)
    await upstream.stop()
    return findings(options, traffic, disturbances, upstream, limit, scratch / "log" / "export" / "feedback")


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
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as scratch:
        line = asyncio.run(soak(options, Path(scratch)))
    print(json.dumps(line))
    return 0 if line["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
