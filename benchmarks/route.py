"""Batch routing: the route stage against the bare batched forward pass of the same policy on the same cores.

Both sides decide the same synthetic vectors over the dial with one policy (a run's, or a BaRP network of the
default shape), one thread a process, in alternating rounds. The stage is measured at steady state, from the
first block of each actor to the last block; its CPU time is that of driver, actors and Ray itself. What the
driver then takes to write the decisions, a row per prompt and setting, is given apart and together with it.
One JSON line.

    python -m benchmarks.route [--policy RUN/policy] [--rows N] [--block-rows N] [--processes 2] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import pyarrow as pa
import torch

from benchmarks.process_costs import CpuClock
from pipeline import route
from pipeline.cluster import ray_session
from pipeline.compose import load_config
from pipeline.console import configure_logging
from pipeline.tables import write_parts
from policies.barp.network import BarpNetwork, NetworkShape
from policies.barp.policy import BarpPolicy
from policies.bundle import EncoderIdentity, RouterBundle
from policies.costs import CostModel
from policies.pool import read_pool_file
from policies.preference import dial_grid
from policies.schemas import DECISIONS, PROMPTS

DIMENSION = 384


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", type=Path, help="a saved policy for vectors of 384 numbers")
    parser.add_argument("--rows", type=int, default=262_144)
    parser.add_argument("--block-rows", type=int, default=16_384)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    configure_logging(show_all=False)
    config = load_config([f"cluster.num_cpus={options.processes}", f"route.block_rows={options.block_rows}"])
    n = options.rows
    vectors = np.random.default_rng(0).normal(size=(n, DIMENSION)).astype(np.float32)
    prompts = pa.table(
        [[f"p{i}" for i in range(n)], ["What is the time?"] * n, [None] * n], schema=PROMPTS.schema
    )
    grid = dial_grid()
    rounds: list[tuple[Rates, Rates]] = []
    writing_s: list[float] = []
    with tempfile.TemporaryDirectory() as folder, ray_session(config):
        bundle = options.policy or Path(folder) / "policy"
        if options.policy is None:
            _save_bundle(bundle, config)
        policy = RouterBundle.load(bundle).policy
        for _ in range(options.rounds):
            stage, decided = _stage_rates(
                lambda: route._decide_all(prompts, vectors, grid, bundle, config), options
            )
            started = time.perf_counter()
            tables = route.decisions_tables(prompts["prompt_id"], grid, *decided, policy.models, "synthetic")
            write_parts(tables, DECISIONS.schema, f"{folder}/decisions.parquet")
            writing_s.append(time.perf_counter() - started)
            rounds.append((stage, _bare_rates(bundle, options)))
    ratios = [stage.prompts_per_s / bare.prompts_per_s for stage, bare in rounds]
    cpu = [stage.cpu_s_per_prompt / bare.cpu_s_per_prompt for stage, bare in rounds]
    print(
        json.dumps(
            {
                "benchmark": "route",
                "policy": policy.kind,
                "rows": n,
                "dial_settings": len(grid),
                "processes": options.processes,
                "stage_prompts_per_s": round(statistics.median(s.prompts_per_s for s, _ in rounds), 1),
                "bare_prompts_per_s": round(statistics.median(b.prompts_per_s for _, b in rounds), 1),
                "stage_over_bare": round(statistics.median(ratios), 3),
                "stage_over_bare_rounds": [round(ratio, 3) for ratio in ratios],
                "bare_cpu_ms_per_prompt": round(
                    statistics.median(1e3 * b.cpu_s_per_prompt for _, b in rounds), 3
                ),
                "stage_over_bare_cpu": round(statistics.median(cpu), 3),
                "stage_over_bare_cpu_rounds": [round(ratio, 3) for ratio in cpu],
                "writing_s": round(statistics.median(writing_s), 2),
                "stage_and_writing_over_bare": round(
                    statistics.median(
                        n / (n / stage.prompts_per_s + seconds) / bare.prompts_per_s
                        for (stage, bare), seconds in zip(rounds, writing_s)
                    ),
                    3,
                ),
                "start_s": round(statistics.median(s.start_s for s, _ in rounds), 2),
            }
        )
    )


@dataclass(frozen=True)
class Rates:
    """Of one side of one round; ``start_s`` is the stage's time until each actor has given a block."""

    prompts_per_s: float
    cpu_s_per_prompt: float
    start_s: float = float("nan")


@dataclass
class Arrivals:
    """Stands in for the progress bar and notes when blocks arrive."""

    times: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def __enter__(self) -> Arrivals:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, rows: int) -> None:
        self.times.append(time.perf_counter())
        self.rows.append(rows)


def _stage_rates(
    decide_all: Callable[[], tuple[np.ndarray, np.ndarray]], options: argparse.Namespace
) -> tuple[Rates, tuple[np.ndarray, np.ndarray]]:
    arrivals = Arrivals()
    clock = CpuClock(lambda: len(arrivals.rows) >= options.processes)
    with mock.patch.object(route, "progress", return_value=arrivals):
        clock.start()
        start = time.perf_counter()
        decided = decide_all()
    cores = clock.stop()
    warm = options.processes
    rate = sum(arrivals.rows[warm:]) / (arrivals.times[-1] - arrivals.times[warm - 1])
    return Rates(rate, cores / rate, arrivals.times[warm - 1] - start), decided


def _save_bundle(directory: Path, config: Any) -> None:
    pool = read_pool_file(config.pool.path).pool(config.pool.name)
    torch.manual_seed(0)
    network = BarpNetwork(NetworkShape(DIMENSION, len(pool.models)))
    RouterBundle(
        policy=BarpPolicy(pool.models, network),
        pool=pool,
        encoder=EncoderIdentity("synthetic", "00" * 32, "torch-fp32", DIMENSION),
        cost_model=CostModel(pool.prices_per_token_usd, 10.0, np.zeros(len(pool.models))),
        tau_usd=0.01,
    ).save(directory)


def _bare_rates(bundle: Path, options: argparse.Namespace) -> Rates:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(options.processes)
    results: multiprocessing.Queue[tuple[float, float, float]] = context.Queue()
    rows = options.rows // options.processes
    arguments = (bundle, rows, options.block_rows, barrier, results)
    workers = [context.Process(target=_decide_blocks, args=arguments) for _ in range(options.processes)]
    for worker in workers:
        worker.start()
    spans = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    done = rows * options.processes
    wall = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
    return Rates(done / wall, sum(cpu for _, _, cpu in spans) / done)


def _decide_blocks(bundle: Path, rows: int, block_rows: int, barrier: Any, results: Any) -> None:
    torch.set_num_threads(1)
    policy = RouterBundle.load(bundle).policy
    vectors = np.random.default_rng(0).normal(size=(rows, DIMENSION)).astype(np.float32)
    grid = dial_grid()
    route.decide(policy, vectors[:64], np.ones(64), grid, None)
    barrier.wait()
    start, cpu = time.time(), time.process_time()
    for at in range(0, rows, block_rows):
        block = vectors[at : at + block_rows]
        route.decide(policy, block, np.ones(len(block)), grid, None)
    results.put((start, time.time(), time.process_time() - cpu))


if __name__ == "__main__":
    main()
