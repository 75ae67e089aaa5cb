"""What each model did in training, on average: the endpoint's answer where a policy predicts no latency."""

from __future__ import annotations

import polars as pl

from pipeline.layout import RunLayout
from policies.bundle import TrainingMeans
from policies.pool import ModelPool


def training_means(
    layout: RunLayout, pool: ModelPool, splits: tuple[str, ...], *, logged: bool
) -> TrainingMeans:
    """Return mean score and mean latency of every model over the prompts of ``splits``.

    Args:
        layout: the run.
        pool: the models.
        splits: whose prompts count.
        logged: read the feedback log rather than the full table.

    Raises:
        InputError: there is no such table.
    """
    table = layout.need(layout.feedback, "simulate") if logged else layout.need(layout.outcomes, "ingest")
    chosen = pl.scan_parquet(layout.need(layout.splits, "ingest")).filter(pl.col("split").is_in(splits))
    means = (
        pl.scan_parquet(table)
        .join(chosen.select("prompt_id"), on="prompt_id", how="semi")
        .group_by("model")
        .agg(pl.col("score", "latency_s").mean())
        .collect(engine="streaming")
    )
    found = {model: (score, latency_s) for model, score, latency_s in means.iter_rows()}
    rows = [found.get(model, (None, None)) for model in pool.models]
    return TrainingMeans(tuple(row[0] for row in rows), tuple(row[1] for row in rows))
