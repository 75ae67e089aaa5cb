"""Journal rows as the tables that the pipeline reads: events, prompts, embeddings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from policies.bundle import EncoderIdentity
from policies.schemas import (
    ENCODER_BACKEND_KEY,
    ENCODER_MAX_TOKENS_KEY,
    ENCODER_NAME_KEY,
    ENCODER_WEIGHTS_KEY,
    FEEDBACK,
    PROMPTS,
    embeddings_spec,
    unlogged_prompt,
)
from serve.journal.rows import DECISION_COLUMNS, OUTCOME_COLUMNS

Rows = Sequence[dict[str, Any]]

_EXTRA = (
    ("error", pa.string()),
    ("expected_score", pa.float64()),
    ("expected_cost_usd", pa.float64()),
    ("best_cost_usd", pa.float64()),
    ("release", pa.string()),
    ("key_id", pa.string()),
    ("session_id", pa.string()),
    ("retry_of", pa.string()),
    ("metadata", pa.string()),
)
"""Columns beyond the contract of a feedback log, which readers of it pass over."""

EVENTS_SCHEMA = pa.schema([*FEEDBACK.schema, *(pa.field(name, kind) for name, kind in _EXTRA)])


def named(rows: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Return rows of :data:`serve.journal.rows.SELECT` with their columns' names."""
    names = (*DECISION_COLUMNS, *OUTCOME_COLUMNS.values())
    return [dict(zip(names, row)) for row in rows]


def events_table(rows: Rows) -> pa.Table:
    """Return the rows as a feedback log (:data:`policies.schemas.FEEDBACK`) with a few columns more.

    ``prompt_tokens`` is what the upstream counted, null until it told; ``estimated_prompt_tokens`` is the length on
    which the decision was made.
    """
    columns = {
        "event_id": [row["decision_id"] for row in rows],
        "timestamp": [row["at_us"] for row in rows],
        "eligible": [json.loads(row["eligible"]) for row in rows],
        "prompt_tokens": [row["upstream_prompt_tokens"] for row in rows],
        "estimated_prompt_tokens": [row["prompt_tokens"] for row in rows],
    }
    arrays = [
        pa.array(columns.get(field.name) or [row[field.name] for row in rows], field.type)
        for field in EVENTS_SCHEMA
    ]
    return pa.table(arrays, schema=EVENTS_SCHEMA)


def prompts_table(rows: Rows) -> pa.Table:
    """Return the prompts that the rows hold, each once; where only its vector was kept, a stand-in for the text."""
    texts: dict[str, str] = {}
    for row in rows:
        if row["prompt"] is not None:
            texts[row["prompt_id"]] = row["prompt"]
        elif row["embedding"] is not None:
            texts.setdefault(row["prompt_id"], unlogged_prompt(row["prompt_id"]))
    columns: dict[str, Any] = {
        "prompt_id": list(texts),
        "prompt": list(texts.values()),
        "task": [None] * len(texts),
    }
    return pa.table(columns, schema=PROMPTS.schema)


def embeddings_tables(rows: Rows, encoders: dict[str, EncoderIdentity]) -> dict[str, pa.Table]:
    """Return the vectors that the rows hold, each prompt once, by a folder name for each encoder.

    Args:
        rows: of the journal.
        encoders: by policy version.
    """
    prompts = prompts_table(rows)
    texts = dict(zip(prompts["prompt_id"].to_pylist(), prompts["prompt"].to_pylist()))
    vectors: dict[EncoderIdentity, dict[str, bytes]] = {}
    for row in rows:
        identity = encoders.get(row["policy_version"])
        if row["embedding"] is not None and identity is not None:
            vectors.setdefault(identity, {})[row["prompt_id"]] = row["embedding"]
    tables = {}
    for identity, found in vectors.items():
        spec = embeddings_spec(identity.dimension)
        flat = pa.py_buffer(b"".join(found.values()))
        values = pa.Array.from_buffers(pa.float32(), len(found) * identity.dimension, [None, flat])
        metadata = {
            ENCODER_NAME_KEY: identity.name.encode(),
            ENCODER_WEIGHTS_KEY: identity.weights_sha256.encode(),
            ENCODER_BACKEND_KEY: identity.backend.encode(),
            ENCODER_MAX_TOKENS_KEY: str(identity.max_tokens).encode(),
        }
        hashes = [hashlib.sha256(texts[prompt_id].encode()).hexdigest() for prompt_id in found]
        columns = [
            pa.array(list(found), pa.string()),
            pa.array(hashes, pa.string()),
            pa.FixedSizeListArray.from_arrays(values, identity.dimension),
        ]
        folder = f"{identity.weights_sha256[:16]}-{identity.backend}-{identity.max_tokens}"
        tables[folder] = pa.table(columns, schema=spec.schema.with_metadata(metadata))
    return tables
