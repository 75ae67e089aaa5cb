"""The journal's tables, and records as their rows."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np

from serve.journal.records import DecisionRecord, Outcome
from serve.journal.traffic import TABLE as TRAFFIC_TABLE

Source = Literal["gateway", "feedback"]
"""Who tells an outcome: the gateway that made the call, or the caller."""

DECISION_COLUMNS = (
    "decision_id",
    "at_us",
    "prompt_id",
    "w_quality",
    "w_cost",
    "eligible",
    "model",
    "propensity",
    "policy_version",
    "prompt_tokens",
    "expected_score",
    "expected_cost_usd",
    "best_cost_usd",
    "release",
    "key_id",
    "session_id",
    "retry_of",
    "metadata",
    "embedding",
    "prompt",
)
OUTCOME_COLUMNS = {
    "score": "score",
    "cost_usd": "cost_usd",
    "prompt_tokens": "upstream_prompt_tokens",
    "completion_tokens": "completion_tokens",
    "latency_s": "latency_s",
    "error": "error",
}
"""Field of :class:`Outcome` and its column."""

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    """
CREATE TABLE IF NOT EXISTS decisions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    decision_id TEXT NOT NULL UNIQUE,
    at_us INTEGER NOT NULL,
    prompt_id TEXT NOT NULL,
    w_quality REAL NOT NULL,
    w_cost REAL NOT NULL,
    eligible TEXT NOT NULL,
    model TEXT NOT NULL,
    propensity REAL NOT NULL,
    policy_version TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    expected_score REAL,
    expected_cost_usd REAL NOT NULL,
    best_cost_usd REAL NOT NULL,
    release TEXT NOT NULL,
    key_id TEXT,
    session_id TEXT,
    retry_of TEXT,
    metadata TEXT,
    embedding BLOB,
    prompt TEXT,
    score REAL,
    cost_usd REAL,
    upstream_prompt_tokens INTEGER,
    completion_tokens INTEGER,
    latency_s REAL,
    error TEXT
)""",
    "CREATE INDEX IF NOT EXISTS by_session ON decisions (session_id, seq) WHERE session_id IS NOT NULL",
    # How many changes the rows of a file have seen, and how many of them its Parquet file holds.
    """
CREATE TABLE IF NOT EXISTS files (
    number INTEGER PRIMARY KEY, changes INTEGER NOT NULL, exported INTEGER NOT NULL DEFAULT 0
)""",
    # Which encoder made the vectors that a policy decided on, as JSON.
    "CREATE TABLE IF NOT EXISTS encoders (policy_version TEXT PRIMARY KEY, identity TEXT NOT NULL) WITHOUT ROWID",
    TRAFFIC_TABLE,
)

INSERT = (
    f"INSERT OR IGNORE INTO decisions ({', '.join(DECISION_COLUMNS)}) "
    f"VALUES ({', '.join('?' * len(DECISION_COLUMNS))})"
)
SELECT = f"SELECT {', '.join(DECISION_COLUMNS)}, {', '.join(OUTCOME_COLUMNS.values())} FROM decisions"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_us(timestamp: datetime) -> int:
    """Return microseconds since 1970, exactly."""
    return (timestamp - _EPOCH) // timedelta(microseconds=1)


def from_us(at_us: int) -> datetime:
    """Return the UTC time of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=at_us)


def to_row(record: DecisionRecord) -> tuple[Any, ...]:
    """Return the values of :data:`DECISION_COLUMNS`."""
    embedding = record.embedding
    return (
        record.decision_id,
        to_us(record.timestamp),
        record.prompt_id,
        record.w_quality,
        record.w_cost,
        json.dumps(record.eligible),
        record.model,
        record.propensity,
        record.policy_version,
        record.prompt_tokens,
        record.expected_score,
        record.expected_cost_usd,
        record.best_cost_usd,
        record.release,
        record.key_id,
        record.session_id,
        record.retry_of,
        json.dumps(record.metadata) if record.metadata else None,
        None if embedding is None else np.ascontiguousarray(embedding, dtype="<f4").tobytes(),
        record.prompt,
    )


def from_row(row: tuple[Any, ...]) -> tuple[DecisionRecord, Outcome]:
    """Return what a row of :data:`SELECT` holds."""
    values = dict(zip(DECISION_COLUMNS, row))
    at_us, metadata, embedding = values.pop("at_us"), values.pop("metadata"), values.pop("embedding")
    record = DecisionRecord(
        **{**values, "eligible": tuple(json.loads(values["eligible"]))},
        timestamp=from_us(at_us),
        metadata=json.loads(metadata) if metadata else {},
        embedding=None if embedding is None else np.frombuffer(embedding, dtype="<f4"),
    )
    return record, Outcome(*row[len(DECISION_COLUMNS) :])
