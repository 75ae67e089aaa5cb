"""Seconds and memory of joining a feedback log with its prompts' vectors, as training in logged mode does.

Writes logs of several sizes with one prompt, one vector and a list of eligible models an event, and reads each in
a process of its own; the exponent is the slope of log seconds over log events (1: linear). Prints one JSON line.

    python -m benchmarks.read_log [--events 10000 100000 1000000] [--dim 384] [--models 11] [--cpus 2]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.process_costs import MEBIBYTE, Memory, in_process
from pipeline.compose import load_config
from pipeline.config import TradewindConfig
from pipeline.console import configure_logging
from pipeline.embedding_table import (
    PARQUET_OPTIONS,
    ROW_GROUP_ROWS,
    identity_metadata,
    to_arrow_vectors,
)
from pipeline.layout import RunLayout
from pipeline.tables import conform
from policies.bundle import EncoderIdentity
from policies.schemas import FEEDBACK, PROMPTS, embeddings_spec

PIECE = 65_536


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--models", type=int, default=11)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--folder", help="where the logs are written; default: the system's temporary folder")
    options = parser.parse_args()
    sizes = []
    for n in sorted(options.events):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            config = _config(Path(folder), options)
            in_process(_write_run, config, n, options)
            sizes.append({"events": n, **in_process(_measure, config)})
    seconds = [size["read_s"] for size in sizes]
    slope = (
        np.polyfit(np.log([size["events"] for size in sizes]), np.log(seconds), 1)[0] if sizes[1:] else None
    )
    result = {
        "benchmark": "read_log",
        "embedding_dim": options.dim,
        "models": options.models,
        "cpus": options.cpus,
        "sizes": sizes,
        "exponent": None if slope is None else round(float(slope), 3),
    }
    print(json.dumps(result))


def _config(folder: Path, options: argparse.Namespace) -> TradewindConfig:
    prices = "\n".join(f"  m{k}: {{input: 1.0, output: 1.0}}" for k in range(options.models))
    (folder / "pool.yaml").write_text(f"prices:\n{prices}\n")
    return load_config(
        [
            f"pool={folder / 'pool.yaml'}",
            f"run.dir={folder / 'run'}",
            "train.mode=logged",
            f"cluster.num_cpus={options.cpus}",
        ]
    )


def _pieces(n: int) -> Iterator[tuple[int, int]]:
    for start in range(0, n, PIECE):
        yield start, min(PIECE, n - start)


def _write_run(config: TradewindConfig, n: int, options: argparse.Namespace) -> dict[str, Any]:
    """Write prompts, splits, vectors and log of a run, a piece at a time."""
    layout = RunLayout.of(config)
    layout.prompts.parent.mkdir(parents=True)
    layout.embeddings.mkdir()
    rng = np.random.default_rng(0)
    models = [f"m{k}" for k in range(options.models)]
    identity = EncoderIdentity("synthetic", "0" * 64, "torch-fp32", options.dim, 256)
    spec = embeddings_spec(options.dim).schema.with_metadata(identity_metadata(identity))
    splits = pa.schema([("prompt_id", pa.string()), ("split", pa.string())])
    stamp = datetime(2026, 1, 1, tzinfo=UTC)
    with (
        pq.ParquetWriter(layout.prompts, PROMPTS.schema) as prompt_file,
        pq.ParquetWriter(layout.splits, splits) as split_file,
        pq.ParquetWriter(layout.feedback, FEEDBACK.schema, compression="zstd") as log_file,
    ):
        for start, rows in _pieces(n):
            ids = [f"prompt-{i:012d}" for i in range(start, start + rows)]
            texts = ["A question of the usual length, " * 3] * rows
            prompt_file.write_table(pa.table([ids, texts, ["task"] * rows], schema=PROMPTS.schema))
            split = np.where(rng.random(rows) < 0.9, "train", "validation")
            split_file.write_table(pa.table([ids, pa.array(split)], schema=splits))
            # Events come in another order than prompts.
            called = rng.permutation(rows)
            actions = rng.integers(options.models, size=rows)
            w_cost = rng.random(rows)
            events = {
                "event_id": [f"event-{i:012d}" for i in range(start, start + rows)],
                "timestamp": pa.array([stamp] * rows, pa.timestamp("us", tz="UTC")),
                "prompt_id": [ids[i] for i in called],
                "w_quality": 1.0 - w_cost,
                "w_cost": w_cost,
                "eligible": [models] * rows,
                "model": [models[a] for a in actions],
                "propensity": np.full(rows, 1.0 / options.models),
                "score": rng.random(rows),
                "cost_usd": rng.random(rows) * 1e-3,
                "policy_version": ["uniform"] * rows,
            }
            log_file.write_table(conform(FEEDBACK, pa.table(events), "the synthetic log"))
    compression = {name: value for name, value in PARQUET_OPTIONS.items() if name != "write_page_checksum"}
    with pq.ParquetWriter(layout.embeddings / "part-00000.parquet", spec, **compression) as vector_file:
        for start in range(0, n, ROW_GROUP_ROWS):
            rows = min(ROW_GROUP_ROWS, n - start)
            ids = [f"prompt-{i:012d}" for i in range(start, start + rows)]
            vectors = to_arrow_vectors(rng.standard_normal((rows, options.dim), dtype=np.float32))
            vector_file.write_table(pa.table([ids, ids, vectors], schema=spec))
    return {}


def _measure(config: TradewindConfig) -> dict[str, Any]:
    """Read the log once; start-up of Ray is timed apart."""
    from pipeline.cluster import ray_session
    from pipeline.join import load_pool
    from pipeline.log_columns import stream_feedback
    from policies.rllib.columns import open_columns, training_columns, write_columns

    configure_logging(show_all=False)
    layout = RunLayout.of(config)
    scratch = layout.root / "scratch"
    scratch.mkdir()
    parts = {name: (name,) for name in ("train", "validation")}
    started = time.perf_counter()
    with ray_session(config):
        start_s = time.perf_counter() - started
        memory = Memory()
        memory.start()
        started = time.perf_counter()
        data = stream_feedback(layout, config, load_pool(config), parts, scratch)
        for name, part in data.items():
            write_columns(scratch / "arrays" / name, training_columns(part))
        read_s = time.perf_counter() - started
        rows = sum(len(open_columns(scratch / "arrays" / name)["actions"]) for name in parts)
        peaks = memory.stop()
    vectors_mb = sum(part.embeddings.nbytes for part in data.values()) / MEBIBYTE
    return {
        "rows": rows,
        "vectors_mb": round(vectors_mb),
        "read_s": round(read_s, 2),
        "events_per_s": round(rows / read_s),
        "ray_start_s": round(start_s, 2),
        **peaks,
    }


if __name__ == "__main__":
    main()
