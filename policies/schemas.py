"""The tables that stages, endpoint and users exchange: one Arrow schema and one set of rules each."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa


@dataclass(frozen=True)
class Range:
    """Allowed values of a numeric column, bounds included; NaN and infinities are never allowed."""

    low: float
    high: float = float("inf")
    low_open: bool = False

    def __str__(self) -> str:
        left = "(" if self.low_open else "["
        return (
            f"{left}{self.low:g}, {self.high:g}]"
            if self.high != float("inf")
            else f"{left}{self.low:g}, inf)"
        )


@dataclass(frozen=True)
class TableSpec:
    """What a table must look like at every reading edge.

    Attributes:
        name: what messages call the table.
        schema: column types; ``nullable=False`` columns must be present and hold no nulls.
        ranges: allowed values of numeric columns.
        key: columns that identify a row; two rows with the same key are an error.
        optional: columns that may be absent (they are then read as all null).
        aliases: accepted input names of columns, mapped to their own.
    """

    name: str
    schema: pa.Schema
    key: tuple[str, ...]
    ranges: dict[str, Range] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    aliases: dict[str, str] = field(default_factory=dict)


def _column(name: str, kind: pa.DataType, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable)


UNIT = Range(0.0, 1.0)
NON_NEGATIVE = Range(0.0)

PROMPTS = TableSpec(
    "prompts",
    pa.schema(
        [
            _column("prompt_id", pa.string()),
            _column("prompt", pa.string()),
            _column("task", pa.string(), nullable=True),
        ]
    ),
    key=("prompt_id",),
    optional=("task",),
)

OUTCOMES = TableSpec(
    "outcomes",
    pa.schema(
        [
            _column("prompt_id", pa.string()),
            _column("model", pa.string()),
            _column("score", pa.float64(), nullable=True),
            _column("cost_usd", pa.float64(), nullable=True),
            _column("prompt_tokens", pa.int64(), nullable=True),
            _column("completion_tokens", pa.int64(), nullable=True),
            _column("latency_s", pa.float64(), nullable=True),
            # True where the cost was computed from prices because the source gave none.
            _column("cost_estimated", pa.bool_(), nullable=True),
        ]
    ),
    key=("prompt_id", "model"),
    ranges={
        "score": UNIT,
        "cost_usd": NON_NEGATIVE,
        "prompt_tokens": NON_NEGATIVE,
        "completion_tokens": NON_NEGATIVE,
        "latency_s": NON_NEGATIVE,
    },
    optional=("prompt_tokens", "completion_tokens", "latency_s", "cost_estimated"),
    aliases={"cost": "cost_usd"},
)

FEEDBACK = TableSpec(
    "feedback log",
    pa.schema(
        [
            _column("event_id", pa.string()),
            _column("timestamp", pa.timestamp("us", tz="UTC")),
            _column("prompt_id", pa.string()),
            _column("w_quality", pa.float64()),
            _column("w_cost", pa.float64()),
            _column("eligible", pa.list_(pa.string())),
            _column("model", pa.string()),
            _column("propensity", pa.float64()),
            _column("score", pa.float64(), nullable=True),
            _column("cost_usd", pa.float64(), nullable=True),
            _column("prompt_tokens", pa.int64(), nullable=True),
            _column("completion_tokens", pa.int64(), nullable=True),
            _column("latency_s", pa.float64(), nullable=True),
            _column("policy_version", pa.string()),
            # Length on which the decision was made, where the router logged it: that of the whole conversation.
            _column("estimated_prompt_tokens", pa.int64(), nullable=True),
        ]
    ),
    key=("event_id",),
    ranges={
        "w_quality": UNIT,
        "w_cost": UNIT,
        "propensity": Range(0.0, 1.0, low_open=True),
        "score": UNIT,
        "cost_usd": NON_NEGATIVE,
        "prompt_tokens": NON_NEGATIVE,
        "completion_tokens": NON_NEGATIVE,
        "latency_s": NON_NEGATIVE,
        "estimated_prompt_tokens": NON_NEGATIVE,
    },
    optional=("prompt_tokens", "completion_tokens", "latency_s", "estimated_prompt_tokens"),
    aliases={"cost": "cost_usd"},
)

COMPARISONS = TableSpec(
    "comparisons",
    pa.schema(
        [
            _column("prompt_id", pa.string()),
            _column("model_a", pa.string()),
            _column("model_b", pa.string()),
            # The name of either model, or "tie".
            _column("winner", pa.string()),
        ]
    ),
    key=(),
)

DECISIONS = TableSpec(
    "decisions",
    pa.schema(
        [
            _column("prompt_id", pa.string()),
            _column("w_cost", pa.float64()),
            _column("model", pa.string()),
            _column("probability", pa.float64()),
            _column("policy_version", pa.string()),
        ]
    ),
    key=("prompt_id", "w_cost"),
    ranges={"w_cost": UNIT, "probability": UNIT},
)


def embeddings_spec(dimension: int, *, half: bool = False) -> TableSpec:
    """Return the contract of an embeddings table of vectors with ``dimension`` float32 (or float16) entries."""
    kind = pa.float16() if half else pa.float32()
    return TableSpec(
        "embeddings",
        pa.schema(
            [
                _column("prompt_id", pa.string()),
                _column("content_hash", pa.string()),
                _column("embedding", pa.list_(kind, dimension)),
            ]
        ),
        key=("prompt_id",),
    )


UNLOGGED = "[text not logged] "


def unlogged_prompt(prompt_id: str) -> str:
    """Return what stands for a prompt whose vector was logged but whose text was not; like no other prompt's."""
    return UNLOGGED + prompt_id


ENCODER_NAME_KEY = b"tradewind.encoder_name"
ENCODER_WEIGHTS_KEY = b"tradewind.encoder_weights_sha256"
ENCODER_BACKEND_KEY = b"tradewind.encoder_backend"
ENCODER_MAX_TOKENS_KEY = b"tradewind.encoder_max_tokens"
"""Keys of the embeddings file's Arrow metadata: vectors of two encoders must never meet in one table."""
