"""Seconds and memory from a stored embeddings table to training tensors.

Writes tables of several sizes in parts, as the embed stage does, and reads each in a process of its own: all vectors
in the table's order, and in another order, as the prompts of a split come. Prints one JSON line.

    python -m benchmarks.read_embeddings [--prompts 100000 1000000] [--dim 384] [--rounds 3] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.process_costs import Memory, in_process
from pipeline.embedding_parts import PART_ROWS, part_edges
from pipeline.embedding_table import PARQUET_OPTIONS, identity_metadata, to_arrow_vectors
from pipeline.layout import RunLayout
from pipeline.tables import write_table
from policies.bundle import EncoderIdentity
from policies.schemas import embeddings_spec


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where tables are written; default: the system's temporary folder")
    options = parser.parse_args()
    sizes = []
    for n in sorted(options.prompts):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            in_process(_write, Path(folder), n, options.dim)
            sizes.append({"prompts": n, **in_process(_measure, Path(folder), n, options.rounds)})
    print(json.dumps({"benchmark": "read_embeddings", "embedding_dim": options.dim, "sizes": sizes}))


def _ids(start: int, stop: int) -> list[str]:
    return [f"prompt-{i:012d}" for i in range(start, stop)]


def _write(root: Path, n: int, dimension: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    identity = EncoderIdentity("synthetic", "0" * 64, "torch-fp32", dimension, 256)
    schema = embeddings_spec(dimension).schema.with_metadata(identity_metadata(identity))
    for number, (start, stop) in enumerate(part_edges(n, PART_ROWS)):
        vectors = to_arrow_vectors(rng.standard_normal((stop - start, dimension), dtype=np.float32))
        hashes = [f"{i:064x}" for i in range(start, stop)]
        table = pa.table([_ids(start, stop), hashes, vectors], schema=schema)
        path = RunLayout(root).embeddings / f"part-{number:05d}.parquet"
        write_table(table, str(path), row_group_rows=stop - start, parquet_options=PARQUET_OPTIONS)
    return {}


def _measure(root: Path, n: int, rounds: int) -> dict[str, Any]:
    import torch

    from pipeline.join import embeddings_of

    ordered = pl.Series("prompt_id", _ids(0, n))
    result: dict[str, Any] = {"vectors_mb": 0}
    for name, ids in {"in_order": ordered, "shuffled": ordered.shuffle(seed=0)}.items():
        memory = Memory()
        memory.start()
        tensor = torch.from_numpy(embeddings_of(RunLayout(root), ids))
        result[f"{name}_peak_growth_mb"] = memory.stop()["driver_private_growth_mb"]
        result["vectors_mb"] = round(tensor.nbytes / 2**20)
        del tensor
        seconds, cpu = [], []
        for _ in range(rounds):
            start, spent = time.perf_counter(), time.process_time()
            tensor = torch.from_numpy(embeddings_of(RunLayout(root), ids))
            seconds.append(time.perf_counter() - start)
            cpu.append(time.process_time() - spent)
            del tensor
        result[f"{name}_s"] = round(statistics.median(seconds), 2)
        result[f"{name}_s_rounds"] = [round(s, 2) for s in seconds]
        result[f"{name}_cpu_s"] = round(statistics.median(cpu), 2)
    return result


if __name__ == "__main__":
    main()
