"""Reading a feedback log as users keep it: events sent twice, scores that came later, prices that changed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.tables import conform, data_files, read_any, to_polars
from policies.errors import InputError
from policies.pool import ModelSpec
from policies.schemas import FEEDBACK

MIN_BIN_EVENTS = 20
"""Fewer events of a model in a stretch of time say nothing about its price."""

MAX_BINS = 10
"""Stretches of time with equal numbers of a model's events, between which costs per token are compared."""

TOLERATED_CHANGE = 0.05
"""Smaller relative changes of a cost per token are taken for rounding."""

CERTAIN_ERRORS = 4.0
"""Standard errors beyond which the difference of two medians is no accident."""

MEDIAN_ERROR = 1.2533 * 1.4826
"""Standard error of a normal sample's median times sqrt(n), in units of the median absolute deviation."""

EVENT_ID = "event_id"


@dataclass(frozen=True)
class PriceChange:
    """A model whose cost per token changed.

    Attributes:
        model: the model.
        furthest: cost over the pool file's price of the same tokens, in the stretch of time that is furthest
            from the last one.
        last: the same in the last stretch.
    """

    model: str
    furthest: float
    last: float

    def __str__(self) -> str:
        return f"{self.model} {self.furthest:.2f} to {self.last:.2f} times the pool's price"


def read_feedback(
    uri: str, *, columns: Mapping[str, str] | None = None, models: Collection[str] | None = None
) -> tuple[pl.DataFrame, int]:
    """Read and check a log; events sent several times count once.

    Rows with one ``event_id`` are one event when they differ by nulls alone (it was sent again, perhaps with the
    score that had been missing): their values are put together at the place of the first.

    Args:
        uri: file, directory or URI.
        columns: input column for a column of the contract, where the names differ.
        models: allowed values of the ``model`` column; None allows any.

    Returns:
        The events, and the number of repeated rows that were dropped.

    Raises:
        InputError: see :func:`pipeline.tables.read_table`; or two rows of one event with different values.
    """
    fs, files = data_files(uri)
    parts = [conform(FEEDBACK, read_any(fs, path), path, columns=columns, models=models) for path in files]
    log = to_polars(pa.concat_tables(parts))
    if log.height == 0:
        raise InputError(f"{uri}: the {FEEDBACK.name} table is empty")
    if log[EVENT_ID].n_unique() == log.height:
        return log, 0
    starts = pl.DataFrame(
        {"file": files, "first": [sum(part.num_rows for part in parts[:k]) for k in range(len(parts))]},
        schema={"file": pl.String, "first": pl.UInt32},
    )
    _refuse_conflicts(log, starts)
    merged = log.group_by(EVENT_ID, maintain_order=True).agg(pl.all().drop_nulls().first())
    return merged.select(log.columns), log.height - merged.height


def _refuse_conflicts(log: pl.DataFrame, starts: pl.DataFrame) -> None:
    repeated = log.with_row_index("row").filter(pl.col(EVENT_ID).is_duplicated())
    # A list of models is a set: its order says nothing.
    plain = repeated.with_columns(pl.col("eligible").list.sort().list.join(", "))
    values = [name for name in log.columns if name != EVENT_ID]
    counts = plain.group_by(EVENT_ID, maintain_order=True).agg(pl.col(values).drop_nulls().n_unique())
    conflicts = counts.filter(pl.any_horizontal(pl.col(values) > 1))
    if conflicts.height == 0:
        return
    first = conflicts.row(0, named=True)
    column = next(name for name in values if first[name] > 1)
    rows = plain.filter((pl.col(EVENT_ID) == first[EVENT_ID]) & pl.col(column).is_not_null())
    rows = rows.unique(column, keep="first", maintain_order=True)
    at = rows.join_asof(starts, left_on="row", right_on="first")
    where = [
        f"{file}: row {row - start + 1}" for file, row, start in at.select("file", "row", "first").rows()
    ]
    raise InputError(
        f"{where[1]}, column '{column}': event '{first[EVENT_ID]}' has {rows[column][1]!r}, but {rows[column][0]!r} in "
        f"{where[0]}; {conflicts.height} events in all; allowed: repeated rows that differ by nulls alone"
    )


def price_changes(log: pl.DataFrame, specs: Mapping[str, ModelSpec]) -> list[PriceChange]:
    """Return the models whose cost per token changed in the course of a log.

    Each event's cost is divided by what its tokens cost at the pool file's prices. A model's events are cut into
    stretches of time; a stretch's median that is further than 5 %, and than noise explains, from the last one's is a
    change. Events without token counts or cost, and free models, cannot tell.

    Args:
        log: events, columns of the contract.
        specs: prices by model.
    """
    ratios = (
        log.with_columns(listed=_listed_cost_usd(log, specs))
        .filter((pl.col("listed") > 0.0) & (pl.col("cost_usd") > 0.0))
        .select("model", "timestamp", ratio=pl.col("cost_usd") / pl.col("listed"))
        .sort("timestamp")
    )
    found = []
    for model in sorted(set(ratios["model"])):
        own = np.log(ratios.filter(pl.col("model") == model)["ratio"].to_numpy())
        bins = np.array_split(own, min(MAX_BINS, len(own) // MIN_BIN_EVENTS) or 1)
        medians = np.array([np.median(values) for values in bins])
        spread = np.median(np.abs(np.concatenate([v - m for v, m in zip(bins, medians)])))
        noise = MEDIAN_ERROR * spread * math.sqrt(2.0 / len(bins[-1]))
        change = np.abs(medians - medians[-1])
        k = int(change.argmax())
        if change[k] > max(math.log1p(TOLERATED_CHANGE), CERTAIN_ERRORS * noise):
            found.append(PriceChange(model, math.exp(medians[k]), math.exp(medians[-1])))
    return found


def at_pool_prices(log: pl.DataFrame, specs: Mapping[str, ModelSpec]) -> tuple[pl.DataFrame, int]:
    """Return the log with the cost of every event of known tokens at the pool file's prices, and their number."""
    listed = _listed_cost_usd(log, specs)
    known = listed.is_not_null() & log["cost_usd"].is_not_null()
    costs = pl.when(known).then(listed).otherwise("cost_usd")
    return log.with_columns(cost_usd=costs), int(known.sum())


def _listed_cost_usd(log: pl.DataFrame, specs: Mapping[str, ModelSpec]) -> pl.Series:
    """Return what each event's tokens cost at the pool file's prices, shape (n,), null where not known."""
    prices = pl.DataFrame(
        {
            "model": list(specs),
            "input": [spec.input_price_per_mtok_usd / 1e6 for spec in specs.values()],
            "output": [spec.output_price_per_mtok_usd / 1e6 for spec in specs.values()],
            "call": [spec.price_per_call_usd for spec in specs.values()],
        },
        schema={"model": pl.String, "input": pl.Float64, "output": pl.Float64, "call": pl.Float64},
    )
    priced = log.select("model", "prompt_tokens", "completion_tokens").join(
        prices, on="model", how="left", maintain_order="left"
    )
    return priced.select(
        listed=pl.col("call")
        + pl.col("prompt_tokens") * pl.col("input")
        + pl.col("completion_tokens") * pl.col("output")
    )["listed"]


def price_notes(log: pl.DataFrame, specs: Mapping[str, ModelSpec]) -> tuple[str, ...]:
    """Return what to tell about changed prices, nothing where there are none."""
    changes = price_changes(log, specs)
    if not changes:
        return ()
    listed = "; ".join(str(change) for change in changes)
    return (
        f"costs per token changed in the course of the log ({listed}): what is learned mixes both; "
        "data.log_costs=pool_prices recomputes costs from tokens and the pool file's prices",
    )
