"""A new model's answers, from a file to what its vector is learned from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.config import TradewindConfig
from pipeline.console import say
from pipeline.join import load_prompts
from pipeline.onboarding.newcomer import AskablePool, Newcomer
from pipeline.splits import SPLITS, TRAIN
from pipeline.tables import read_table, to_polars
from policies.errors import InputError
from policies.llm_bandit.observations import Observations
from policies.schemas import OUTCOMES


def read_answers(config: TradewindConfig, newcomer: Newcomer) -> pl.DataFrame:
    """Return the configured outcome table: the new model's answers to training prompts, one row a prompt.

    Answers to the run's other prompts are left out, which stay unseen for evaluation. A cost that is missing is
    worked out from tokens, where both counts are there.

    Raises:
        InputError: no file is named, the table is malformed, a row is of another model or of a prompt that the run does
            not have, or too few answers have a score.
    """
    uri = config.onboard.outcomes
    if uri is None:
        raise InputError("onboard.outcomes is not set; give onboard.outcomes=PATH of the new model's answers")
    answers = to_polars(read_table(OUTCOMES, uri))
    name = newcomer.spec.name
    other = answers["model"] != name
    if other.any():
        row = int(other.arg_max() or 0)
        raise InputError(
            f"{uri}: row {row + 1}, column 'model': '{answers['model'][row]}'; allowed: '{name}' (onboard.model)"
        )
    splits = load_prompts(newcomer.layout, SPLITS).select("prompt_id", "split")
    placed = answers.join(splits, on="prompt_id", how="left", maintain_order="left")
    unknown = placed["split"].is_null()
    if unknown.any():
        row = int(unknown.arg_max() or 0)
        raise InputError(
            f"{uri}: row {row + 1}, column 'prompt_id': '{placed['prompt_id'][row]}' is no prompt of the run "
            f"{newcomer.layout.root}; allowed: its training prompts, as in {newcomer.prompts.name}"
        )
    used = placed.filter(pl.col("split") == TRAIN)
    if used.height < placed.height:
        say(
            f"onboard fit: {placed.height - used.height} of {placed.height} answers are to held-out prompts: left out"
        )
    scored = used.height - used["score"].null_count()
    if scored < config.onboard.min_answers:
        raise InputError(
            f"{uri}: {scored} answers of '{name}' to training prompts have a score; allowed: at least "
            f"onboard.min_answers={config.onboard.min_answers}"
        )
    spec = newcomer.spec
    in_usd, out_usd = spec.input_price_per_mtok_usd, spec.output_price_per_mtok_usd
    tokens_usd = (pl.col("prompt_tokens") * in_usd + pl.col("completion_tokens") * out_usd) / 1e6
    if in_usd == out_usd == 0.0:
        tokens_usd = pl.lit(0.0)
    price = spec.price_per_call_usd + tokens_usd
    return used.with_columns(pl.col("cost_usd").fill_null(price))


def rows_of(answers: pl.DataFrame, pool: AskablePool) -> npt.NDArray[np.int64]:
    """Return the answered prompts' rows among the askable ones, shape (n,)."""
    at = pool.table.select("prompt_id").with_row_index("at")
    rows = answers.join(at, on="prompt_id", how="left", maintain_order="left")["at"]
    return rows.cast(pl.Int64).to_numpy()


def observations(answers: pl.DataFrame, pool: AskablePool, rows: npt.NDArray[np.int64]) -> Observations:
    """Return the answers with the vectors of their ``rows``, one column; NaN where a score or cost is missing."""
    return Observations(
        answers["prompt_id"].to_numpy().astype(str),
        pool.embeddings[rows],
        pool.prompt_tokens[rows],
        _column(answers, "score"),
        _column(answers, "cost_usd"),
    )


def _column(answers: pl.DataFrame, name: str) -> npt.NDArray[np.float64]:
    return answers[name].cast(pl.Float64).fill_null(np.nan).to_numpy()[:, None]
