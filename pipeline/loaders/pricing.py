"""Costs that a source does not give, from the pool's prices and the best token counts at hand."""

from __future__ import annotations

import polars as pl

from policies.costs import CHARACTERS_PER_TOKEN, estimate_prompt_tokens
from policies.pool import PoolFile


def price_missing(rows: pl.DataFrame, prompts: pl.DataFrame, pool_file: PoolFile) -> pl.DataFrame:
    """Fill missing ``cost_usd`` and add ``cost_estimated``.

    ``cost = prompt tokens x input price + answer tokens x output price``. Recorded tokens are used where there
    are any; else the prompt's and the answer's characters / 4. An answer whose length nobody recorded is taken
    to be as long as the model's other answers, then as everyone's, then as nothing (the prompt's price alone).
    A pair without score, tokens and answer was never called as far as the source tells: its cost stays null.

    Args:
        rows: ``prompt_id, model, score, cost_usd, prompt_tokens, completion_tokens, response_chars``.
        prompts: ``prompt_id, prompt``.
        pool_file: has a price for every model of ``rows``.

    Returns:
        ``rows`` with ``cost_usd`` filled, estimated tokens in the priced rows, and ``cost_estimated``: true
        where priced here, false where the source gave the cost, null where there is no cost.
    """
    lengths = pl.DataFrame(
        {
            "prompt_id": prompts["prompt_id"],
            "estimated_prompt_tokens": estimate_prompt_tokens(prompts["prompt"].to_list()),
        }
    )
    prices = pl.DataFrame(
        {
            "model": list(pool_file.specs),
            "input_price": [s.input_price_per_mtok_usd / 1e6 for s in pool_file.specs.values()],
            "output_price": [s.output_price_per_mtok_usd / 1e6 for s in pool_file.specs.values()],
        }
    )
    called = pl.any_horizontal(
        pl.col("score", "prompt_tokens", "completion_tokens", "response_chars").is_not_null()
    )
    asked = pl.coalesce("prompt_tokens", "estimated_prompt_tokens")
    answered = pl.coalesce("completion_tokens", (pl.col("response_chars") / CHARACTERS_PER_TOKEN).ceil())
    priced = (
        rows.join(lengths, on="prompt_id", how="left", maintain_order="left")
        .join(prices, on="model", how="left", maintain_order="left")
        .with_columns(asked.alias("asked"), answered.alias("answered"))
        .with_columns(to_price=pl.col("cost_usd").is_null() & called)
    )
    usual = pl.coalesce(
        "answered", pl.col("answered").mean().over("model"), pl.col("answered").mean(), pl.lit(0.0)
    )
    cost = pl.col("asked") * pl.col("input_price") + usual * pl.col("output_price")
    to_price = pl.col("to_price")
    return priced.with_columns(
        cost_usd=pl.when(to_price).then(cost).otherwise("cost_usd"),
        prompt_tokens=pl.when(to_price).then("asked").otherwise("prompt_tokens"),
        completion_tokens=pl.when(to_price).then("answered").otherwise("completion_tokens"),
    ).with_columns(cost_estimated=pl.when(pl.col("cost_usd").is_not_null()).then(to_price))
