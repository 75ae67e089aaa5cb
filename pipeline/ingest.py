"""Stage 1: user files to checked tables and splits."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.comparisons import comparisons_hash, read_comparisons
from pipeline.config import TradewindConfig
from pipeline.console import say
from pipeline.feedback_log import at_pool_prices, price_notes, read_feedback
from pipeline.layout import RunLayout
from pipeline.provenance import Provenance, record_provenance
from pipeline.served_log import distinct_prompts
from pipeline.splits import SPLITS, TEST, TRAIN, VALIDATION, assign_splits
from pipeline.tables import conform, read_table, to_polars, write_table
from policies.errors import InputError
from policies.leftovers import take_away
from policies.pool import PoolFile, read_pool_file
from policies.schemas import COMPARISONS, FEEDBACK, OUTCOMES, PROMPTS, TableSpec


def run(config: TradewindConfig) -> None:
    """Write the run's prompts, splits and, by source, outcomes or feedback tables; comparisons where some are given.

    Everything is read and checked before the first byte is written. What was made of the tables that were there
    before goes: embeddings, which ``embed`` makes again from the store wherever a text has not changed, and the log
    of ``simulate`` or the outcomes of another source.

    Raises:
        InputError: see :func:`pipeline.tables.read_table`; or rows that name a prompt that is not in the
            prompts table; or a model of the pool without a single row.
    """
    layout = RunLayout.of(config)
    pool_file = read_pool_file(config.pool.path)
    models = pool_file.pool(config.pool.name).models
    provenance = Provenance(config.data.source)
    if config.data.source == "example":
        prompts, frame = _example(config, pool_file)
        spec, uri = OUTCOMES, "the embedded example"  # type: TableSpec, str | None
    elif config.data.source == "benchmark":
        prompts, frame, provenance = _benchmark(config, pool_file)
        spec, uri = OUTCOMES, f"data.benchmark={config.data.benchmark}"
    else:
        known = None if config.data.unknown_models == "drop" else pool_file.specs
        if config.data.source == "tables":
            spec, uri = OUTCOMES, config.data.outcomes
            prompts = _read(PROMPTS, config.data.prompts, config.data.columns.prompts)
            frame = _read(spec, uri, config.data.columns.outcomes, known)
        else:
            spec, uri = FEEDBACK, config.data.log
            # Before the prompts: an endpoint that is running exports a prompt before the events that name it.
            frame, notes = read_log(config, pool_file, str(uri), config.data.columns.log, known)
            prompts = _read(PROMPTS, config.data.prompts, config.data.columns.prompts, keep=distinct_prompts)
            provenance = replace(provenance, notes=notes)
        _check_prompts_known(frame, prompts, str(uri))
    frame = frame.filter(pl.col("model").is_in(list(models)))
    _check_models_seen(frame, models, str(uri), all_needed=spec is OUTCOMES)
    splits = _splits(prompts, config, provenance)
    comparisons = _comparisons(config, prompts, models, pool_file)
    if comparisons is not None:
        note = f"{comparisons.height} comparisons, sha256 {comparisons_hash(comparisons)}"
        provenance = replace(provenance, notes=(*provenance.notes, note))

    record_provenance(layout, provenance)  # first: no table lies here without what it forbids
    layout.splits.unlink(missing_ok=True)  # what later stages ask for: it comes back when all tables are new
    take_away(layout.embeddings)  # before there are new texts, so that old vectors never lie beside them
    (layout.feedback if spec is OUTCOMES else layout.outcomes).unlink(missing_ok=True)
    write_table(prompts.to_arrow().cast(PROMPTS.schema), str(layout.prompts))
    path = str(layout.outcomes if spec is OUTCOMES else layout.feedback)
    write_table(conform(spec, frame.to_arrow(), path), path)
    if comparisons is None:
        layout.comparisons.unlink(missing_ok=True)
    else:
        write_table(comparisons.to_arrow().cast(COMPARISONS.schema), str(layout.comparisons))
    # What the texts alone say stays beside it: embed starts from there, however often it runs.
    write_table(splits.with_columns(text_split="split").to_arrow(), str(layout.splits))
    for note in provenance.notes:
        say(f"ingest: {note}")
    shares = dict(splits["split"].value_counts().iter_rows())
    counts = ", ".join(f"{shares.get(name, 0)} {name}" for name in SPLITS)
    say(f"ingest: {prompts.height} prompts ({counts}), {frame.height} rows of {len(models)} models")


def _comparisons(
    config: TradewindConfig, prompts: pl.DataFrame, models: tuple[str, ...], pool_file: PoolFile
) -> pl.DataFrame | None:
    if config.data.comparisons is None:
        return None
    priced = None if config.data.unknown_models == "drop" else pool_file.specs
    return read_comparisons(config.data.comparisons, prompts["prompt_id"].to_list(), models, priced)


def read_log(
    config: TradewindConfig,
    pool_file: PoolFile,
    uri: str,
    columns: dict[str, str] | None,
    models: Collection[str] | None = None,
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Return a log's events once each, at the configured costs, and what to tell about them.

    Raises:
        InputError: see :func:`pipeline.feedback_log.read_feedback`.
    """
    log, n_repeated = read_feedback(uri, columns=columns, models=models)
    notes = [f"{n_repeated} repeated rows of events dropped"] if n_repeated else []
    if config.data.log_costs == "pool_prices":
        log, n_priced = at_pool_prices(log, pool_file.specs)
        notes.append(f"{n_priced} of {log.height} costs recomputed from tokens and the pool file's prices")
    return log, (*notes, *price_notes(log, pool_file.specs))


def _benchmark(config: TradewindConfig, pool_file: PoolFile) -> tuple[pl.DataFrame, pl.DataFrame, Provenance]:
    from pipeline.loaders.base import LoaderOptions
    from pipeline.loaders.registry import LOADERS, load_benchmark

    name = config.data.benchmark
    assert name is not None, "the configuration guarantees a benchmark for the source"
    options = LoaderOptions(
        pool_file, config.data.unknown_models, config.data.prompts, config.data.columns.prompts
    )
    tables = load_benchmark(name, config.data.path, options)
    return tables.prompts, tables.outcomes, Provenance(name, LOADERS[name].evaluation_only, tables.notes)


def _splits(prompts: pl.DataFrame, config: TradewindConfig, provenance: Provenance) -> pl.DataFrame:
    splits = assign_splits(prompts, config.data)
    if provenance.evaluation_only:  # nothing to train or choose on
        return splits.with_columns(pl.col("split").replace({TRAIN: TEST, VALIDATION: TEST}))
    return splits


def _read(
    spec: TableSpec,
    uri: str | None,
    columns: dict[str, str],
    models: Collection[str] | None = None,
    keep: Callable[[pl.DataFrame], npt.NDArray[np.bool_]] | None = None,
) -> pl.DataFrame:
    assert uri is not None, "the configuration guarantees a path for the source"
    return to_polars(read_table(spec, uri, columns=columns, models=models, keep=keep))


def _example(config: TradewindConfig, pool_file: PoolFile) -> tuple[pl.DataFrame, pl.DataFrame]:
    from pipeline.example import generate_example

    prices = {
        name: (spec.input_price_per_mtok_usd, spec.output_price_per_mtok_usd)
        for name, spec in pool_file.specs.items()
        if spec.kind == "model"
    }
    # Tools are run, which takes its time: only those that the pool names.
    called = pool_file.pool(config.pool.name).specs
    tools = {spec.name: spec.price_per_call_usd for spec in called if spec.kind == "tool"}
    settings = config.data.example
    example = generate_example(settings.n_prompts, settings.seed, prices=prices, tools=tools)
    say("ingest: embedded example; its prompts are generated and its outcomes are simulated")
    if tools:
        say(f"ingest: {' and '.join(tools)} were run on every prompt")
    return example.prompts, example.outcomes


def _check_prompts_known(frame: pl.DataFrame, prompts: pl.DataFrame, uri: str) -> None:
    known = frame["prompt_id"].is_in(prompts["prompt_id"].implode())
    if not known.all():
        row = int((~known).arg_max() or 0)
        raise InputError(
            f"{uri}: row {row + 1}, column 'prompt_id': '{frame['prompt_id'][row]}' is not in the prompts table"
        )


def _check_models_seen(frame: pl.DataFrame, models: tuple[str, ...], uri: str, *, all_needed: bool) -> None:
    if frame.height == 0:
        raise InputError(f"{uri}: no row is of a model of the pool ({', '.join(models)})")
    seen = set(frame["model"].unique())
    unseen = [model for model in models if model not in seen]
    if unseen and all_needed:
        raise InputError(
            f"{uri}: no row of model '{unseen[0]}', which the pool names; take it out of the pool"
        )
