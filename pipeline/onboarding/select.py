"""`onboard select`: which prompts to ask a new model, and what asking them should cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.config import TradewindConfig
from pipeline.console import say
from pipeline.onboarding.newcomer import AskablePool, Newcomer
from pipeline.tables import write_table
from policies.errors import InputError
from policies.llm_bandit.identity_vectors import expected_output_cost_usd
from policies.llm_bandit.onboarding import STRATA
from policies.llm_bandit.selection import SELECTIONS, AskablePrompts
from policies.llm_bandit.selection import select as select_rows

Float64Array = npt.NDArray[np.float64]


def select(config: TradewindConfig) -> pl.DataFrame:
    """Write and return the prompts to ask, from easy to hard; print what they should cost at the model's prices.

    Raises:
        InputError: see :meth:`Newcomer.of`; an unknown strategy; more prompts than there are.
    """
    strategy = config.onboard.selection
    if strategy not in SELECTIONS:
        raise InputError(f"onboard.selection={strategy}: no such strategy; allowed: {', '.join(SELECTIONS)}")
    newcomer = Newcomer.of(config)
    pool = newcomer.askable()
    policy = newcomer.policy
    prompts = AskablePrompts.of(
        policy.network, policy.arms, pool.embeddings, pool.prompt_tokens, answers=pool.known_answers()
    )
    if config.onboard.n_prompts > len(prompts):
        raise InputError(
            f"onboard.n_prompts={config.onboard.n_prompts}: the run has {len(prompts)} training prompts; "
            f"allowed: 1 to {len(prompts)}"
        )
    rng = np.random.default_rng(config.run.seed)
    chosen = select_rows(strategy, prompts, config.onboard.n_prompts, rng)
    order = np.argsort(-prompts.scores.mean(axis=1), kind="stable")
    stratum = np.empty(len(prompts), dtype=np.int64)
    for number, part in enumerate(np.array_split(order, STRATA), start=1):
        stratum[part] = number
    rows = order[np.isin(order, chosen)]
    lengths = answer_tokens(newcomer, pool, rows)
    costs = _costs_usd(newcomer, pool.prompt_tokens[rows], lengths)
    known = costs.shape[1] > 0
    table = (
        pool.table[rows]
        .select("prompt_id", "prompt")
        .with_columns(
            pl.Series("stratum", stratum[rows]),
            pl.Series("expected_prompt_tokens", pool.prompt_tokens[rows]),
            _mean("expected_answer_tokens", lengths),
            _mean("expected_cost_usd", costs),
        )
    )
    totals = costs.sum(axis=0)
    record = {
        **newcomer.provenance(),
        "selection": strategy,
        "seed": config.run.seed,
        "n_prompts": len(rows),
        "expected_cost_usd": float(totals.mean()) if known else None,
        "expected_cost_usd_tersest": float(totals.min()) if known else None,
        "expected_cost_usd_longest": float(totals.max()) if known else None,
    }
    _write(newcomer, table, record)
    say(f"onboard select: {len(rows)} prompts by '{strategy}' for {newcomer.spec.name} -> {newcomer.prompts}")
    if known:
        say(
            f"onboard select: expected price {totals.mean():.4g} USD; {totals.min():.4g} to {totals.max():.4g} USD "
            "with answers as short or as long as those of any known model"
        )
    else:
        say(
            "onboard select: the price is not known: no model of the pool has priced answers to tell their length"
        )
    return table


def answer_tokens(newcomer: Newcomer, pool: AskablePool, rows: npt.NDArray[np.int64]) -> Float64Array:
    """Return the expected answer length of each known model whose answers have a price, shape (n, J), tokens."""
    network = newcomer.policy.network
    prices = newcomer.bundle.pool.prices_per_token_usd[:, 1]
    calls_usd = newcomer.bundle.pool.prices_per_call_usd
    priced = prices > 0.0
    loadings = network.loadings(network.inputs(pool.embeddings[rows], pool.prompt_tokens[rows]))
    costs = expected_output_cost_usd(network, loadings, newcomer.policy.arms.take(priced))
    return np.maximum(costs - calls_usd[priced], 0.0) / prices[priced]


def _costs_usd(newcomer: Newcomer, prompt_tokens: Float64Array, lengths: Float64Array) -> Float64Array:
    """Return what the answers would cost if they were as long as each known model's, shape (n, J), USD."""
    spec = newcomer.spec
    call_usd = spec.price_per_call_usd + prompt_tokens[:, None] * spec.input_price_per_mtok_usd / 1e6
    if spec.output_price_per_mtok_usd == 0.0:
        return call_usd
    return call_usd + lengths * spec.output_price_per_mtok_usd / 1e6


def _mean(name: str, values: Float64Array) -> pl.Series:
    """Return the mean over models, null where there is none."""
    n, models = values.shape
    return pl.Series(name, values.mean(axis=1) if models else [None] * n, dtype=pl.Float64)


def _write(newcomer: Newcomer, table: pl.DataFrame, record: dict[str, Any]) -> None:
    write_table(table.to_arrow(), str(newcomer.prompts))
    _replace(newcomer.prompts.with_suffix(".jsonl"), table.write_ndjson())
    _replace(newcomer.selection, json.dumps(record, indent=2) + "\n")


def _replace(path: Path, text: str) -> None:
    staging = path.with_name(path.name + ".tmp")
    staging.write_text(text)
    staging.replace(path)
