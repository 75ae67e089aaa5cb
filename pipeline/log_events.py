"""Which events of a feedback log may judge a run's policy, and why the others may not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.config import TradewindConfig
from pipeline.embed import embed_table
from pipeline.ingest import read_log
from pipeline.join import embeddings_of, feedback_arrays, load_prompts
from pipeline.layout import RunLayout
from pipeline.served_log import distinct_prompts
from pipeline.splits import SPLITS, TRAIN, VALIDATION, text_key
from pipeline.tables import read_table, to_polars
from policies.bundle import RouterBundle
from policies.datasets import LoggedFeedback, StrArray
from policies.errors import InputError
from policies.pool import ModelPool, read_pool_file
from policies.schemas import FEEDBACK, PROMPTS


@dataclass(frozen=True)
class EvaluationLog:
    """Events that trained nothing and have an outcome.

    Attributes:
        events: n of them.
        groups: shape (n,), the same for events whose prompts are the same text.
        source: file or folder of the log.
        notes: what reading it dropped or found.
        n_logged: events of the whole log.
        n_trained_on: left out, as their prompt (or a copy of it) is of the training or validation split.
        n_outside_pool: left out, as a model outside the pool could have been called.
        n_without_outcome: left out, as score or cost has not arrived, by called model.
    """

    events: LoggedFeedback
    groups: StrArray
    source: str
    notes: tuple[str, ...]
    n_logged: int
    n_trained_on: int
    n_outside_pool: int
    n_without_outcome: dict[str, int]


def load_evaluation_log(layout: RunLayout, config: TradewindConfig, bundle: RouterBundle) -> EvaluationLog:
    """Return the usable events of ``evaluate.log``, or of the run's own log when that is null.

    Events whose eligible models reach beyond the pool are left out whichever model was called: leaving out
    only calls to models outside it would make every other propensity wrong.

    Raises:
        InputError: a malformed log, an event of an unknown prompt, or fewer than two prompts left.
    """
    own = config.evaluate.log is None
    source = config.evaluate.log or str(layout.need(layout.feedback, "simulate"))
    notes: tuple[str, ...] = ()
    if own:  # ingest has put it in order
        log = to_polars(read_table(FEEDBACK, source))
    else:
        log, notes = read_log(config, read_pool_file(config.pool.path), source, config.data.columns.log)
    log = _with_prompts(log, _known_prompts(layout, config, log, own), source)
    fresh = log.filter(~pl.col("trained_on"))
    models = list(bundle.pool.models)
    inside = fresh.filter(
        pl.col("model").is_in(models) & pl.col("eligible").list.eval(pl.element().is_in(models)).list.all()
    )
    unknown = inside.filter(pl.col("score").is_null() | pl.col("cost_usd").is_null())
    used = inside.filter(pl.col("score").is_not_null() & pl.col("cost_usd").is_not_null())
    counts = {
        "n_logged": log.height,
        "n_trained_on": log.height - fresh.height,
        "n_outside_pool": fresh.height - inside.height,
    }
    if used["key"].n_unique() < 2:
        raise InputError(
            f"{source}: {used.height} of {log.height} events are left to evaluate on, of fewer than two prompts: "
            f"{counts['n_trained_on']} are of training or validation prompts, {counts['n_outside_pool']} could have "
            f"called models outside the pool '{bundle.pool.name}', {unknown.height} have no score or cost"
        )
    embeddings = _embeddings(layout, config, bundle, used)
    return EvaluationLog(
        events=feedback_arrays(used, bundle.pool, embeddings, source),
        groups=used["key"].to_numpy().astype(str),
        source=source,
        notes=notes,
        n_without_outcome=dict(sorted(unknown["model"].value_counts().iter_rows())),
        **counts,
    )


def training_events(layout: RunLayout, pool: ModelPool) -> LoggedFeedback:
    """Return the scored events of the run's log on training prompts, without vectors (they are not needed).

    Raises:
        InputError: there is no such log, or no such event.
    """
    path = layout.need(layout.feedback, "simulate")
    log = to_polars(read_table(FEEDBACK, str(path), models=pool.models))
    log = log.join(load_prompts(layout, (TRAIN,)), on="prompt_id", how="inner", maintain_order="left")
    events = feedback_arrays(log, pool, np.zeros((log.height, 0), dtype=np.float32), str(path)).scored()
    if len(events) == 0:
        raise InputError(f"{path}: no scored event on the prompts of the training split")
    return events


def _known_prompts(layout: RunLayout, config: TradewindConfig, log: pl.DataFrame, own: bool) -> pl.DataFrame:
    """Return ``prompt_id, prompt, task, split, key``; split is null for prompts that the run does not hold."""
    known = load_prompts(layout, SPLITS).select("prompt_id", "prompt", "task", "split")
    if not own and config.data.prompts is not None:
        unknown = log.select("prompt_id").unique().join(known, on="prompt_id", how="anti")
        given = to_polars(
            read_table(
                PROMPTS, config.data.prompts, columns=config.data.columns.prompts, keep=distinct_prompts
            )
        )
        both = given.join(known, on="prompt_id", suffix="_run").filter(
            (pl.col("prompt") != pl.col("prompt_run")) & pl.col("prompt_id").is_in(log["prompt_id"].implode())
        )
        if both.height:
            raise InputError(
                f"{config.data.prompts}: prompt '{both['prompt_id'][0]}' has another text than in the run; "
                "ids must be the same prompts"
            )
        new = given.join(unknown, on="prompt_id", how="semi").select("prompt_id", "prompt", "task")
        known = pl.concat([known, new.with_columns(split=pl.lit(None, pl.String))], how="vertical_relaxed")
    return known.with_columns(key=pl.Series([text_key(text) for text in known["prompt"]], dtype=pl.String))


def _with_prompts(log: pl.DataFrame, prompts: pl.DataFrame, source: str) -> pl.DataFrame:
    trained = prompts.filter(pl.col("split").is_in([TRAIN, VALIDATION]))["key"].unique()
    joined = log.join(prompts, on="prompt_id", how="left", maintain_order="left")
    missing = joined["prompt"].is_null()
    if missing.any():
        row = int(missing.arg_max() or 0)
        raise InputError(
            f"{source}: row {row + 1}, column 'prompt_id': '{log['prompt_id'][row]}' is neither a prompt of the run "
            "nor of data.prompts"
        )
    return joined.with_columns(trained_on=pl.col("key").is_in(trained.implode()))


def _embeddings(
    layout: RunLayout, config: TradewindConfig, bundle: RouterBundle, used: pl.DataFrame
) -> npt.NDArray[np.float32]:
    new = used.filter(pl.col("split").is_null()).unique("prompt_id", maintain_order=True)
    if new.height == 0:
        return embeddings_of(layout, used["prompt_id"])
    from pipeline.route import matching_encoder

    identity = matching_encoder(bundle.encoder, config)
    table = new.select(PROMPTS.schema.names).to_arrow().cast(PROMPTS.schema)
    fresh = embed_table(table, config, identity)
    held = used.filter(pl.col("split").is_not_null())
    vectors = np.empty((used.height, fresh.vectors.shape[1]), dtype=np.float32)
    is_new = used["split"].is_null().to_numpy()
    position = {prompt_id: row for row, prompt_id in enumerate(new["prompt_id"])}
    vectors[is_new] = fresh.vectors[
        [position[i] for i in used.filter(pl.col("split").is_null())["prompt_id"]]
    ]
    if held.height:
        vectors[~is_new] = embeddings_of(layout, held["prompt_id"])
    return vectors
