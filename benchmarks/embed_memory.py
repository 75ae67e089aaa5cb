"""Memory of the embed stage as the corpus grows: the stage holds keys of the texts, not texts and not vectors.

The encoder is a real one made small, so that a large corpus takes minutes: one layer with random weights, the size of
vector and the tokenizer of the packaged model. Each size runs in a process of its own with a Ray of its own; peaks
are those of the driver and of all workers, without what the system maps of files and of the object store. Prints one
JSON line.

    python -m benchmarks.embed_memory [--prompts 20000 200000] [--cpus 2] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.process_costs import Memory, in_process
from pipeline.compose import load_config
from pipeline.console import configure_logging
from pipeline.layout import RunLayout
from policies.schemas import PROMPTS

GROUP_ROWS = 65_536


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--block-rows", type=int, default=2048)
    parser.add_argument("--folder", help="where runs are written; default: the system's temporary folder")
    options = parser.parse_args()
    sizes = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        in_process(_small_encoder, Path(folder) / "encoder")
        for n in sorted(options.prompts):
            overrides = (
                f"encoder.model={folder}/encoder",
                f"encoder.block_rows={options.block_rows}",
                f"encoder.num_actors={options.cpus}",
                f"cluster.num_cpus={options.cpus}",
                f"run.root={folder}/{n}",
            )
            in_process(_write_prompts, overrides, n)
            sizes.append({"prompts": n, **in_process(_measure, overrides)})
            shutil.rmtree(Path(folder) / str(n))
    print(json.dumps({"benchmark": "embed_memory", "cpus": options.cpus, "sizes": sizes}))


def _small_encoder(folder: Path) -> dict[str, Any]:
    import torch
    from transformers import BertConfig, BertModel

    from policies.encoder import load_encoder
    from policies.encoder.source import find_source

    packaged = find_source("minilm").folder
    shutil.copytree(packaged, folder)
    shape = json.loads((packaged / "config.json").read_text())
    shape |= {"num_hidden_layers": 1, "intermediate_size": 64}
    torch.manual_seed(0)
    (folder / "model.safetensors").unlink()
    BertModel(BertConfig(**shape)).save_pretrained(folder)
    load_encoder(str(folder), "auto", 256, 1024)  # converts, once
    return {}


def _write_prompts(overrides: tuple[str, ...], n: int) -> dict[str, Any]:
    path = RunLayout.of(load_config(overrides)).prompts
    path.parent.mkdir(parents=True)
    with pq.ParquetWriter(path, PROMPTS.schema, compression="zstd") as file:
        for start in range(0, n, GROUP_ROWS):
            numbers = range(start, min(n, start + GROUP_ROWS))
            ids = [f"prompt-{i:012d}" for i in numbers]
            # Every tenth text is a copy of another row's.
            originals = [i - 9 if i % 10 == 9 else i for i in numbers]
            texts = [f"What is {i} times {i % 7}?" for i in originals]
            file.write_table(pa.table([ids, texts, [None] * len(ids)], schema=PROMPTS.schema))
    return {}


def _measure(overrides: tuple[str, ...]) -> dict[str, Any]:
    from pipeline import embed
    from pipeline.cluster import ray_session

    configure_logging(show_all=False)
    config = load_config(overrides)
    with ray_session(config):
        memory = Memory()
        memory.start()
        start = time.perf_counter()
        embed.run(config)
        seconds = time.perf_counter() - start
        peaks = memory.stop()
    return {"seconds": round(seconds, 1), **peaks}


if __name__ == "__main__":
    main()
