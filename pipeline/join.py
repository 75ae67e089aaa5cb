"""From the tables of a run to the arrays that learners and reports work on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.config import TradewindConfig
from pipeline.embedding_table import read_identity, vectors_of
from pipeline.layout import RunLayout
from pipeline.log_columns import eligible_mask, event_numbers
from pipeline.tables import read_table, to_polars
from policies.bundle import EncoderIdentity
from policies.costs import estimate_prompt_tokens
from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.errors import InputError
from policies.pool import ModelPool, read_pool_file
from policies.schemas import FEEDBACK, OUTCOMES, PROMPTS


def load_pool(config: TradewindConfig) -> ModelPool:
    """Return the configured pool."""
    return read_pool_file(config.pool.path).pool(config.pool.name)


def load_prompts(layout: RunLayout, splits: Sequence[str]) -> pl.DataFrame:
    """Return ``prompt_id, prompt, task, split`` of the prompts in ``splits``, in table order."""
    prompts = to_polars(read_table(PROMPTS, str(layout.need(layout.prompts, "ingest"))))
    membership = pl.read_parquet(layout.need(layout.splits, "ingest"), columns=["prompt_id", "split"])
    return prompts.join(membership, on="prompt_id", how="left", maintain_order="left").filter(
        pl.col("split").is_in(list(splits))
    )


def encoder_identity(layout: RunLayout) -> EncoderIdentity:
    """Return the encoder that made the run's embeddings."""
    return read_identity(layout.need(layout.embeddings, "embed"))


def load_outcomes(layout: RunLayout, config: TradewindConfig, splits: Sequence[str]) -> OutcomeMatrix:
    """Return the full-information arrays of the prompts in ``splits`` that have at least one outcome.

    Raises:
        InputError: a table is missing, or a prompt has no embedding.
    """
    if layout.feedback.exists() and not layout.outcomes.exists():
        raise InputError(
            f"{layout.outcomes}: missing; the run has a feedback log alone: learn with train.mode=logged"
        )
    pool = load_pool(config)
    prompts = load_prompts(layout, splits)
    outcomes = to_polars(
        read_table(OUTCOMES, str(layout.need(layout.outcomes, "ingest")), models=pool.models)
    )
    rows = prompts.select("prompt_id").with_row_index("row")
    placed = outcomes.join(rows, on="prompt_id", how="inner")
    column = {model: j for j, model in enumerate(pool.models)}
    at = (
        placed["row"].to_numpy(),
        placed["model"].replace_strict(column, return_dtype=pl.Int64).to_numpy(),
    )
    dense = {}
    for name in ("score", "cost_usd", "completion_tokens"):
        values = np.full((prompts.height, len(pool.models)), np.nan)
        values[at] = placed[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        dense[name] = values
    matrix = OutcomeMatrix(
        prompt_ids=prompts["prompt_id"].to_numpy().astype(str),
        tasks=prompts["task"].fill_null("").to_numpy().astype(str),
        pool=pool,
        embeddings=embeddings_of(layout, prompts["prompt_id"]),
        prompt_tokens=estimate_prompt_tokens(prompts["prompt"].to_list()),
        scores=dense["score"],
        costs_usd=dense["cost_usd"],
        completion_tokens=dense["completion_tokens"],
    )
    return matrix.rows(matrix.observed.any(axis=1))


def load_feedback(layout: RunLayout, config: TradewindConfig, splits: Sequence[str]) -> LoggedFeedback:
    """Return the logged events of the prompts in ``splits``, in log order.

    Raises:
        InputError: a table is missing, an event names an unknown prompt or model, its called model is not
            eligible, or a prompt has no embedding.
    """
    pool = load_pool(config)
    prompts = load_prompts(layout, splits)
    path = layout.need(layout.feedback, "simulate")
    log = to_polars(read_table(FEEDBACK, str(path), models=pool.models))
    log = log.join(prompts, on="prompt_id", how="inner", maintain_order="left")
    return feedback_arrays(log, pool, embeddings_of(layout, log["prompt_id"]), str(path))


def feedback_arrays(
    log: pl.DataFrame, pool: ModelPool, embeddings: npt.NDArray[np.float32], source: str
) -> LoggedFeedback:
    """Return the arrays of logged events.

    Args:
        log: rows of the feedback table with their ``prompt`` and ``task``; every called model is in the pool.
        pool: the models; others in ``eligible`` are left out.
        embeddings: shape (n, d), of the events' prompts.
        source: what messages call the log.

    Raises:
        InputError: an event's called model is not eligible.
    """
    column = {model: j for j, model in enumerate(pool.models)}
    eligible = eligible_mask(log, pool.models)
    actions = log["model"].replace_strict(column, return_dtype=pl.Int64).to_numpy()
    missed = np.flatnonzero(~eligible[np.arange(log.height), actions])
    if missed.size:
        event = log.row(int(missed[0]), named=True)
        raise InputError(
            f"{source}: event '{event['event_id']}': model '{event['model']}' is not in its eligible list "
            f"{event['eligible']}"
        )
    return LoggedFeedback(
        event_ids=log["event_id"].to_numpy().astype(str),
        prompt_ids=log["prompt_id"].to_numpy().astype(str),
        tasks=log["task"].fill_null("").to_numpy().astype(str),
        pool=pool,
        embeddings=embeddings,
        eligible=eligible,
        actions=actions,
        **event_numbers(log, estimate_prompt_tokens(log["prompt"].to_list())),
    )


def embeddings_of(layout: RunLayout, prompt_ids: pl.Series) -> npt.NDArray[np.float32]:
    """Return the run's vectors of prompts, shape (n, d).

    Raises:
        InputError: a prompt has none.
    """
    path = layout.need(layout.embeddings, "embed")
    vectors, found = vectors_of(path, prompt_ids)
    if not found.all():
        first = prompt_ids[int(found.argmin())]
        raise InputError(
            f"{path}: prompt '{first}' has no embedding ({(~found).sum()} in all); "
            f"run `python -m pipeline embed run.dir={layout.root}`"
        )
    return vectors
