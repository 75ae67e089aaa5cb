"""Batch routing: the route stage against the bare batched forward pass of the same policy on the same cores.

Both sides decide the same synthetic vectors over the dial with a BaRP network of the default shape, one thread a
process, in alternating rounds. The stage's rate is taken between two table sizes, which leaves its start-up out;
the time of the larger one, start included, is printed as well. One JSON line.

    python benchmarks/route.py [--rows 20000] [--processes 2] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import pyarrow as pa
import torch

from pipeline import route
from pipeline.cluster import ray_session
from pipeline.compose import load_config
from pipeline.console import configure_logging
from policies.barp.network import BarpNetwork, NetworkShape
from policies.barp.policy import BarpPolicy
from policies.bundle import EncoderIdentity, RouterBundle
from policies.costs import CostModel
from policies.pool import read_pool_file
from policies.preference import dial_grid
from policies.schemas import PROMPTS

DIMENSION = 384


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000, help="of the smaller table; the larger has 3x")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    configure_logging(show_all=False)
    config = load_config([f"cluster.num_cpus={options.processes}"])
    small, large = options.rows, 3 * options.rows
    vectors = np.random.default_rng(0).normal(size=(large, DIMENSION)).astype(np.float32)
    prompts = pa.table(
        [[f"p{i}" for i in range(large)], ["What is the time?"] * large, [None] * large],
        schema=PROMPTS.schema,
    )
    grid = dial_grid()
    stage, whole, bare = [], [], []
    with tempfile.TemporaryDirectory() as folder, ray_session(config):
        bundle = Path(folder) / "policy"
        _save_bundle(bundle, config)
        for round_ in range(options.rounds + 1):
            seconds = {}
            for n in (small, large):
                start = time.perf_counter()
                route._decide_all(prompts.slice(0, n), vectors[:n], grid, bundle, config)
                seconds[n] = time.perf_counter() - start
            bare_rate = _bare_rate(bundle, large, config.route.block_rows, options.processes)
            if round_ == 0:
                continue  # worker processes start and modules load
            stage.append((large - small) / (seconds[large] - seconds[small]))
            whole.append(large / seconds[large])
            bare.append(bare_rate)
    ratios = [s / b for s, b in zip(stage, bare)]
    print(
        json.dumps(
            {
                "benchmark": "route",
                "rows": large,
                "dial_settings": len(grid),
                "processes": options.processes,
                "stage_prompts_per_s": round(statistics.median(stage), 1),
                "stage_with_start_prompts_per_s": round(statistics.median(whole), 1),
                "bare_prompts_per_s": round(statistics.median(bare), 1),
                "stage_over_bare": round(statistics.median(ratios), 3),
                "stage_over_bare_rounds": [round(ratio, 3) for ratio in ratios],
            }
        )
    )


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


def _bare_rate(bundle: Path, rows: int, block_rows: int, processes: int) -> float:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    results: multiprocessing.Queue[tuple[float, float]] = context.Queue()
    arguments = (bundle, rows // processes, block_rows, barrier, results)
    workers = [context.Process(target=_decide_blocks, args=arguments) for _ in range(processes)]
    for worker in workers:
        worker.start()
    spans = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    done = rows // processes * processes
    return done / (max(end for _, end in spans) - min(start for start, _ in spans))


def _decide_blocks(bundle: Path, rows: int, block_rows: int, barrier: Any, results: Any) -> None:
    torch.set_num_threads(1)
    policy = RouterBundle.load(bundle).policy
    vectors = np.random.default_rng(0).normal(size=(rows, DIMENSION)).astype(np.float32)
    grid = dial_grid()
    route.decide(policy, vectors[:64], np.ones(64), grid, None)
    barrier.wait()
    start = time.time()
    for at in range(0, rows, block_rows):
        block = vectors[at : at + block_rows]
        route.decide(policy, block, np.ones(len(block)), grid, None)
    results.put((start, time.time()))


if __name__ == "__main__":
    main()
