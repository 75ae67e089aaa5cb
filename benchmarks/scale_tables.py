"""Runs of any size for the scale benchmark: synthetic vectors in the store, planted outcomes, distinct short texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import embed, ingest
from pipeline.compose import load_config, record_config
from pipeline.embedding_store import EmbeddingStore
from pipeline.example.families import write_prompts
from pipeline.layout import RunLayout
from pipeline.tables import write_table
from policies.encoder import content_hash, encoder_identity
from policies.schemas import OUTCOMES, PROMPTS

MODELS = 11
PIECE = 32_768
DIRECTIONS = 8
"""Of the planted structure: how much of a prompt's vector its outcomes depend on."""


def vector_run(folder: Path, n: int) -> Path:
    """Write a run of ``n`` prompts that is ready for ``train``, and return its folder.

    Vectors are normal draws; a model's score is a Bernoulli draw whose logit is linear in the vector, its cost
    log-normal. Every model answered every prompt.
    """
    rng = np.random.default_rng(0)
    models = [f"m{k}" for k in range(MODELS)]
    (folder / "pool.yaml").write_text(
        "models:\n"
        + "".join(
            f"  {m}: {{input_price_per_mtok_usd: {0.1 * 1.6**k:.4f}, output_price_per_mtok_usd: {0.4 * 1.6**k:.4f}}}\n"
            for k, m in enumerate(models)
        )
    )
    overrides = [
        "data=tables",
        f"data.prompts={folder}/prompts.parquet",
        f"data.outcomes={folder}/outcomes.parquet",
        f"pool={folder}/pool.yaml",
        "data.split.paraphrase_cosine=null",  # random vectors have no paraphrases to look for
        f"run.root={folder}",
        f"run.dir={folder}/run",
    ]
    config = load_config(overrides)
    record_config(config, overrides)
    encoder = config.encoder
    identity = encoder_identity(encoder.model, encoder.backend, encoder.max_tokens)
    store = EmbeddingStore(f"{folder}/embeddings", identity, encoder.dtype)
    weights = rng.normal(size=(DIRECTIONS, MODELS))
    with (
        pq.ParquetWriter(folder / "prompts.parquet", PROMPTS.schema) as prompt_file,
        pq.ParquetWriter(folder / "outcomes.parquet", OUTCOMES.schema) as outcome_file,
    ):
        for start in range(0, n, PIECE):
            rows = min(PIECE, n - start)
            ids = [f"p{i:09d}" for i in range(start, start + rows)]
            texts = [f"Question {i}: which of these answers is the right one, and why?" for i in ids]
            vectors = rng.normal(size=(rows, identity.dimension)).astype(np.float32)
            store.write_shard([content_hash(text) for text in texts], vectors)
            prompt_file.write_table(pa.table([ids, texts, ["synthetic"] * rows], schema=PROMPTS.schema))
            logits = 0.6 * vectors[:, :DIRECTIONS] @ weights + np.linspace(-0.5, 1.0, MODELS)
            size = rows * MODELS
            columns = {
                "prompt_id": np.repeat(ids, MODELS),
                "model": np.tile(models, rows),
                "score": (rng.random((rows, MODELS)) < 1.0 / (1.0 + np.exp(-logits))).reshape(-1) * 1.0,
                "cost_usd": (
                    1e-5 * 1.6 ** np.arange(MODELS) * rng.lognormal(0.0, 0.5, (rows, MODELS))
                ).reshape(-1),
            }
            table = [
                pa.array(columns[field.name], field.type)
                if field.name in columns
                else pa.nulls(size, field.type)
                for field in OUTCOMES.schema
            ]
            outcome_file.write_table(pa.table(table, schema=OUTCOMES.schema))
    ingest.run(config)
    embed.run(config)
    return folder / "run"


def text_run(folder: Path, n: int) -> Path:
    """Write a run of ``n`` distinct short prompts that is ready for ``embed``, and return its folder."""
    overrides = [f"run.root={folder}", f"run.dir={folder}/run"]
    config = load_config(overrides)
    record_config(config, overrides)
    # The generator repeats itself now and then; a number tells copies apart.
    texts = [f"{prompt.prompt} ({i})" for i, prompt in enumerate(write_prompts(n, seed=0))]
    table = pa.table([[f"p{i:09d}" for i in range(n)], texts, [None] * n], schema=PROMPTS.schema)
    write_table(table, str(RunLayout.of(config).prompts))
    return folder / "run"
