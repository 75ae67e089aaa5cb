"""Collected prompts and outcomes to the checked tables of the contracts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl

from pipeline.loaders.base import LoadedTables, LoaderOptions
from pipeline.loaders.pricing import price_missing
from policies.errors import InputError
from policies.schemas import OUTCOMES

Repeats = Literal["error", "first", "last"]

_COLUMNS: dict[str, Any] = {
    "prompt_id": pl.String,
    "model": pl.String,
    "score": pl.Float64,
    "cost_usd": pl.Float64,
    "prompt_tokens": pl.Float64,
    "completion_tokens": pl.Float64,
    "latency_s": pl.Float64,
    "response_chars": pl.Float64,
    "file": pl.String,
    "row": pl.Int64,
}
_OBSERVED = ("score", "cost_usd", "prompt_tokens", "completion_tokens", "latency_s", "response_chars")
ROUNDING = 1e-9
"""Scores this far outside [0, 1] are rounding and are clipped."""


@dataclass
class Collector:
    """Prompts and outcomes as a loader finds them, with the place of each for error messages."""

    source: Path
    _prompts: dict[str, tuple[str, str | None, str]] = field(default_factory=dict)
    _rows: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in _COLUMNS})
    notes: list[str] = field(default_factory=list)

    def prompt(self, prompt_id: str, text: str, task: str | None, file: object, row: int) -> None:
        """Add a prompt, or check that it is the one already known under this id.

        Raises:
            InputError: another text has the same id: joining the two would mix up prompts.
        """
        place = f"{file}: row {row}"
        known = self._prompts.setdefault(prompt_id, (text, task, place))
        if known[0] != text:
            raise InputError(f"{place}: prompt '{prompt_id}' differs from the one of {known[2]}")

    def outcome(
        self,
        prompt_id: str,
        model: str,
        *,
        score: float | None,
        file: object,
        row: int,
        cost_usd: float | None = None,
        prompt_tokens: float | None = None,
        completion_tokens: float | None = None,
        latency_s: float | None = None,
        response: str | int | None = None,
    ) -> None:
        """Add what one model did on one prompt; None is a missing observation.

        ``response`` is the answer's text or its number of characters; only the length is kept.
        """
        values = (prompt_id, model, score, cost_usd, prompt_tokens, completion_tokens, latency_s)
        chars = len(response) if isinstance(response, str) else response
        for column, value in zip(self._rows.values(), (*values, chars, str(file), row)):
            column.append(value)

    def tables(self, options: LoaderOptions, *, repeats: Repeats = "error") -> LoadedTables:
        """Return the tables: models checked or dropped, ranges checked, missing costs priced.

        Args:
            options: prices and what to do with models that have none.
            repeats: what a second row of the same prompt and model means: an error unless it says the same,
                another sample (``first`` is kept) or a newer result (``last`` is kept).

        Raises:
            InputError: no row; a model without a price; a value outside its range; a repeated pair.
        """
        prompts = pl.DataFrame(
            {
                "prompt_id": list(self._prompts),
                "prompt": [text for text, _, _ in self._prompts.values()],
                "task": [task for _, task, _ in self._prompts.values()],
            },
            schema={"prompt_id": pl.String, "prompt": pl.String, "task": pl.String},
        )
        rows = pl.DataFrame(self._rows, schema=_COLUMNS)
        notes = list(self.notes)
        rows = _known_models(rows, options, notes)
        if rows.height == 0:
            raise InputError(f"{self.source}: no outcome of a model that {options.pool_file.path} prices")
        rows = _in_range(rows)
        rows = _one_per_pair(rows, repeats, notes)
        rows = price_missing(rows, prompts, options.pool_file)
        estimated = int(rows["cost_estimated"].fill_null(False).sum())
        if estimated:
            notes.append(
                f"{estimated} of {rows.height} costs are missing in the source: priced from the pool"
            )
        outcomes = rows.with_columns(pl.col("prompt_tokens", "completion_tokens").round(0).cast(pl.Int64))
        return LoadedTables(prompts, outcomes.select(OUTCOMES.schema.names), tuple(notes))


def _known_models(rows: pl.DataFrame, options: LoaderOptions, notes: list[str]) -> pl.DataFrame:
    priced = pl.col("model").is_in(list(options.pool_file.specs))
    unknown = rows.filter(~priced)
    if unknown.height == 0:
        return rows
    names = unknown["model"].unique(maintain_order=True).to_list()
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    if options.unknown_models == "error":
        raise InputError(
            f"{unknown['file'][0]}: row {unknown['row'][0]}: model '{names[0]}' has no price in "
            f"{options.pool_file.path}; give pool=FILE with its price, or data.unknown_models=drop "
            f"(without a price: {shown})"
        )
    notes.append(f"{unknown.height} rows of {len(names)} models without a price dropped: {shown}")
    return rows.filter(priced)


def _in_range(rows: pl.DataFrame) -> pl.DataFrame:
    score = pl.col("score")
    near = score.is_between(-ROUNDING, 1.0 + ROUNDING)
    rows = rows.with_columns(score=pl.when(near).then(score.clip(0.0, 1.0)).otherwise(score))
    for name, allowed in OUTCOMES.ranges.items():
        value = pl.col(name)
        bad = rows.filter((value < allowed.low) | (value > allowed.high))
        if bad.height:
            first = bad.row(0, named=True)
            raise InputError(
                f"{first['file']}: row {first['row']}, {name} of model '{first['model']}' on prompt "
                f"'{first['prompt_id']}': {first[name]:g}; allowed: {allowed}"
            )
    return rows


def _one_per_pair(rows: pl.DataFrame, repeats: Repeats, notes: list[str]) -> pl.DataFrame:
    pair = ["prompt_id", "model"]
    if repeats == "error":
        distinct = rows.unique([*pair, *_OBSERVED], keep="first", maintain_order=True)
        clash = distinct.filter(~pl.struct(pair).is_first_distinct())
        if clash.height:
            first = clash.row(0, named=True)
            raise InputError(
                f"{first['file']}: row {first['row']}: a second, different outcome of model "
                f"'{first['model']}' on prompt '{first['prompt_id']}'; allowed: one"
            )
    else:
        distinct = rows.unique(pair, keep=repeats, maintain_order=True)
    if distinct.height < rows.height:
        kept = "the first" if repeats == "error" else f"the {repeats}"
        notes.append(f"{rows.height - distinct.height} repeated rows dropped, {kept} of each pair kept")
    return distinct
