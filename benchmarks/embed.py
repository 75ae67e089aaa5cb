"""Embedding speed: the Ray Data stage against bare encoder processes, and backends against sentence-transformers.

Stage and bare side run the same encoder on the same cores (one thread a process) over the same blocks, in
alternating rounds. The stage is measured at steady state, from the first shard of each actor to the last shard;
the bare side from a common start after loading. The stage's CPU time is that of driver, actors and Ray itself.
Backends and ways of batching are measured per CPU second in this process, so that other load on the machine matters
less. Medians and ratios go out as one JSON line.

    python -m benchmarks.embed [--prompts TABLE] [--rows 2048] [--rounds 3] [--backend-rows 96] [--batch-rows 1024]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.process_costs import CpuClock
from pipeline.cluster import ray_session
from pipeline.compose import load_config
from pipeline.config import TradewindConfig
from pipeline.console import configure_logging
from pipeline.embed import embed_table
from pipeline.example.families import write_prompts
from pipeline.tables import read_table
from policies.encoder import Encoder, load_encoder
from policies.encoder.backends import cpu_has_bf16, installed_backends
from policies.encoder.source import find_source
from policies.schemas import PROMPTS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", help="prompts table; default: the embedded example's")
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--block-rows", type=int, default=128)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backend-rows", type=int, default=96)
    parser.add_argument("--batch-rows", type=int, default=1024)
    options = parser.parse_args()
    configure_logging(show_all=False)
    prompts = _prompts(options.prompts, options.rows)
    texts = prompts["prompt"].to_pylist()
    result = {
        "benchmark": "embed",
        "rows": len(texts),
        "mean_chars": round(statistics.fmean(map(len, texts)), 1),
        "cpu_bf16": cpu_has_bf16(),
        **_stage_against_bare(prompts, options),
        "batching": _batching(texts[: options.batch_rows], options.rounds),
        "backends": _backends(texts[: options.backend_rows], options.rounds),
    }
    print(json.dumps(result))


def _prompts(uri: str | None, rows: int) -> pa.Table:
    if uri:
        table = read_table(PROMPTS, uri)
    else:
        written = write_prompts(rows, seed=0)
        columns = [[p.prompt_id for p in written], [p.prompt for p in written], [p.family for p in written]]
        table = pa.table(columns, schema=PROMPTS.schema)
    frame = pl.DataFrame(pl.from_arrow(table)).unique("prompt", maintain_order=True).head(rows)
    return frame.to_arrow().cast(PROMPTS.schema)


def _stage_against_bare(prompts: pa.Table, options: argparse.Namespace) -> dict[str, Any]:
    overrides = [f"encoder.block_rows={options.block_rows}", f"encoder.num_actors={options.processes}"]
    config = load_config([*overrides, f"cluster.num_cpus={options.processes}"])
    load_encoder("minilm", "auto", config.encoder.max_tokens, config.encoder.batch_tokens)  # converts, once
    rounds = []
    with ray_session(config):
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as folder:
                there = load_config([*overrides, f"encoder.store={folder}"])
                stage = _stage_rates(prompts, there, Path(folder))
            rounds.append((stage, _bare_rates(prompts["prompt"].to_pylist(), options, config)))
    ratios = [stage.prompts_per_s / bare.prompts_per_s for stage, bare in rounds]
    cpu = [stage.cpu_s_per_prompt / bare.cpu_s_per_prompt for stage, bare in rounds]
    return {
        "processes": options.processes,
        "stage_prompts_per_s": round(statistics.median(stage.prompts_per_s for stage, _ in rounds), 1),
        "bare_prompts_per_s": round(statistics.median(bare.prompts_per_s for _, bare in rounds), 1),
        "stage_over_bare": round(statistics.median(ratios), 3),
        "stage_over_bare_rounds": [round(ratio, 3) for ratio in ratios],
        "bare_cpu_ms_per_prompt": round(statistics.median(1e3 * b.cpu_s_per_prompt for _, b in rounds), 3),
        "stage_over_bare_cpu": round(statistics.median(cpu), 3),
        "stage_over_bare_cpu_rounds": [round(ratio, 3) for ratio in cpu],
        "stage_with_start_prompts_per_s": round(
            statistics.median(stage.with_start_prompts_per_s for stage, _ in rounds), 1
        ),
    }


@dataclass(frozen=True)
class Rates:
    """Of one side of one round: wall and CPU at steady state, and for the stage the rate with its start."""

    prompts_per_s: float
    cpu_s_per_prompt: float
    with_start_prompts_per_s: float = float("nan")


def _stage_rates(prompts: pa.Table, config: TradewindConfig, store: Path) -> Rates:
    actors = config.encoder.num_actors
    clock = CpuClock(lambda: len(list(store.glob("*/*.parquet"))) >= actors)
    clock.start()
    start = time.perf_counter()
    embed_table(prompts, config)
    total = prompts.num_rows / (time.perf_counter() - start)
    cores = clock.stop()
    finished = sorted(path.stat().st_mtime_ns for path in store.glob("*/*.parquet"))
    # The first shard of each actor ends its warm-up; the last shard may be short, so it is weighed by rows.
    done = prompts.num_rows - actors * config.encoder.block_rows
    rate = done / ((finished[-1] - finished[actors - 1]) / 1e9)
    return Rates(rate, cores / rate, total)


def _bare_rates(texts: list[str], options: argparse.Namespace, config: TradewindConfig) -> Rates:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(options.processes)
    size = options.block_rows
    blocks = [texts[i : i + size] for i in range(0, len(texts), size)]
    results: multiprocessing.Queue[tuple[float, float, float]] = context.Queue()
    workers = [
        context.Process(
            target=_encode_blocks,
            args=(blocks[i :: options.processes], barrier, results, config.encoder.max_tokens,
                  config.encoder.batch_tokens),
        )
        for i in range(options.processes)
    ]  # fmt: skip
    for worker in workers:
        worker.start()
    spans = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    wall = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
    return Rates(len(texts) / wall, sum(cpu for _, _, cpu in spans) / len(texts))


def _encode_blocks(
    blocks: list[list[str]], barrier: Any, results: Any, max_tokens: int, batch_tokens: int
) -> None:
    encoder = load_encoder("minilm", "auto", max_tokens, batch_tokens)
    encoder.encode(blocks[0][:32])
    barrier.wait()
    start, cpu = time.time(), time.process_time()
    for block in blocks:
        encoder.encode(block)
    results.put((start, time.time(), time.process_time() - cpu))


def _batching(texts: list[str], rounds: int) -> dict[str, Any]:
    """Return prompts per CPU second of ways to form batches, over plain batches of 32 in the table's order."""
    unlimited, budget = (load_encoder("minilm", "auto", 256, tokens) for tokens in (10**9, 1024))
    by_length = sorted(texts, key=len)

    def in_pieces(encoder: Encoder, ordered: list[str], size: int) -> Callable[[Sequence[str]], None]:
        def run(_: Sequence[str]) -> None:
            for start in range(0, len(ordered), size):
                encoder.encode(ordered[start : start + size])

        return run

    ways = {
        "plain_32": in_pieces(unlimited, texts, 32),
        "length_sorted_32": in_pieces(unlimited, by_length, 32),
        "token_budget_in_blocks_of_512": in_pieces(budget, texts, 512),
        "token_budget_in_a_sorted_window": in_pieces(budget, by_length, 512),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(_cpu_seconds(way, texts)[0])
    plain = times["plain_32"]
    return {
        name: round(statistics.median(p / t for p, t in zip(plain, taken)), 3)
        for name, taken in times.items()
    }


def _backends(texts: list[str], rounds: int) -> dict[str, Any]:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    plain = SentenceTransformer(str(find_source("minilm").folder), device="cpu")
    # Where the CPU has no bfloat16 it is emulated, which says nothing.
    names = [name for name in installed_backends() if cpu_has_bf16() or not name.endswith("bf16")]
    encoders = {name: load_encoder("minilm", name, 256, 1024) for name in names}
    reference = plain.encode(texts)
    times: dict[str, list[float]] = {name: [] for name in ("plain", *names)}
    vectors: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        times["plain"].append(_cpu_seconds(plain.encode, texts)[0])
        for name, encoder in encoders.items():
            seconds, vectors[name] = _cpu_seconds(encoder.encode, texts)
            times[name].append(seconds)
    report: dict[str, Any] = {
        "plain_prompts_per_cpu_s": round(len(texts) / statistics.median(times["plain"]), 1)
    }
    for name in names:
        cosine = (vectors[name] * reference).sum(axis=1)
        report[name] = {
            "over_plain": round(statistics.median(p / t for p, t in zip(times["plain"], times[name])), 2),
            "cosine_mean": round(float(cosine.mean()), 6),
            "cosine_p1": round(float(np.quantile(cosine, 0.01)), 6),
        }
    return report


def _cpu_seconds(encode: Callable[[Sequence[str]], Any], texts: list[str]) -> tuple[float, Any]:
    start = time.process_time()
    vectors = encode(texts)
    return time.process_time() - start, vectors


if __name__ == "__main__":
    main()
