"""A feedback log joined with its prompts' vectors into memory-mapped columns, streamed by Ray Data.

Two streams, each a Parquet row group at a time. The first checks the log and turns every event into numbers: its
prompt's row by a sorted index of hashed ids, which all workers map into memory, its model's column, its mask of
eligible models. The second reads the embeddings and writes each vector to its events' rows of a ``.npy`` file. No
table becomes Python objects, nothing but numbers and event ids stays in memory, and vectors exist as mapped pages
alone, which learners and trials of a search share.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.exceptions import RayError

from pipeline.cluster import ray_session, user_error
from pipeline.config import TradewindConfig
from pipeline.embedding_table import VECTOR_COLUMN, read_identity, to_matrix
from pipeline.layout import RunLayout
from pipeline.prompt_index import NOT_WANTED, PromptIndex
from pipeline.row_groups import RowGroup, row_groups
from pipeline.tables import conform, data_files, to_polars
from policies.datasets import LoggedFeedback
from policies.errors import InputError
from policies.pool import ModelPool
from policies.schemas import FEEDBACK

BATCH_ROWS = 16_384
"""Vectors in flight per worker: 25 MB of 384 float32 entries."""

RESIDENT_BYTES = 256 * 2**20
"""Written pages are handed back to the system after so many bytes; they stay in its cache while there is room."""


Reader = Callable[[RowGroup], Iterator[pa.Table]]


def stream_feedback(
    layout: RunLayout,
    config: TradewindConfig,
    pool: ModelPool,
    parts: Mapping[str, Sequence[str]],
    directory: Path,
) -> dict[str, LoggedFeedback]:
    """Return the events of each part whose score and cost have arrived, in log order.

    Args:
        layout: the run.
        config: ``cluster`` is read; Ray is started if a table has several row groups.
        pool: the models; others in ``eligible`` are left out.
        parts: name -> splits of its prompts; a split belongs to one part at most.
        directory: existing folder that gets ``PART/embeddings.npy``; the vectors of the result are mapped to it.

    Raises:
        InputError: a table is missing or malformed, vectors are of two encoders, an event is there twice, its
            called model is not eligible, or a prompt has no embedding.
    """
    feedback = layout.need(layout.feedback, "simulate")
    vectors = layout.need(layout.embeddings, "embed")
    read_identity(vectors)  # one encoder, and the files that there ought to be
    part_of = {split: number for number, splits in enumerate(parts.values()) for split in splits}
    index = PromptIndex.build(layout, part_of)
    index.write(directory / "prompts.arrow")
    shared = str(directory / "prompts.arrow")
    log_groups, vector_groups = (row_groups(*data_files(str(path))) for path in (feedback, vectors))
    events = _collect(_stream(log_groups, EventReader(shared, pool.models), config))
    _check(events, pool, data_files(str(feedback))[1])
    logs: dict[str, LoggedFeedback] = {}
    rows: dict[str, npt.NDArray[np.int64]] = {}
    for number, name in enumerate(parts):
        own = events.filter(pl.col("part") == number)
        scored = own.filter(pl.col("score").is_not_null() & pl.col("cost_usd").is_not_null())
        rows[name] = scored["prompt"].to_numpy()
        logs[name] = replace(_arrays(scored, index, pool), n_without_outcome=own.height - scored.height)
    del events
    _write_vectors(_stream(vector_groups, VectorReader(shared), config), index, rows, directory, str(vectors))
    return {name: replace(log, embeddings=_mapped(directory / name)) for name, log in logs.items()}


def _stream(groups: list[RowGroup], read: Reader, config: TradewindConfig) -> Iterator[pa.Table]:
    """Yield what ``read`` makes of the row groups; of several, in any order, read by Ray Data's workers."""
    if len(groups) == 1:
        # Starting workers takes longer than reading one row group.
        yield from read(groups[0])
        return
    with ray_session(config):
        items = ray.data.from_items([{"group": vars(g)} for g in groups], override_num_blocks=len(groups))
        tables = items.map_batches(_read_block, fn_args=(read,), batch_size=None, batch_format="pyarrow")
        try:
            yield from tables.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
        except RayError as error:
            raise user_error(error) from error


def _read_block(block: pa.Table, read: Reader) -> Iterator[pa.Table]:
    for group in block["group"].to_pylist():
        yield from read(RowGroup(**group))


@dataclass(frozen=True)
class EventReader:
    """Reads a row group of the log: the events of wanted prompts as numbers.

    Attributes:
        index: file of the :class:`PromptIndex`.
        models: of the pool, in column order.
    """

    index: str
    models: tuple[str, ...]

    def __call__(self, group: RowGroup) -> Iterator[pa.Table]:
        """Yield ``row, event_id, part, prompt, action, eligible`` and the event's numbers."""
        with pq.ParquetFile(group.path, memory_map=True) as file:
            known = [name for name in FEEDBACK.schema.names if name in file.schema_arrow.names]
            raw = file.read_row_group(group.number, columns=known)
        table = conform(FEEDBACK, raw, group.source, models=self.models)
        index = PromptIndex.open(self.index)
        prompt = index.find(table["prompt_id"])
        part = np.where(prompt >= 0, index.parts[np.maximum(prompt, 0)], NOT_WANTED)
        wanted = np.flatnonzero(part != NOT_WANTED)
        log = to_polars(table.take(wanted))
        columns = log.select(
            "event_id",
            "model",
            "w_quality",
            "w_cost",
            "propensity",
            "score",
            "cost_usd",
            "completion_tokens",
            "estimated_prompt_tokens",
        ).with_columns(
            row=pl.Series(group.first_in_file + wanted),
            part=pl.Series(part[wanted].astype(np.int8)),
            prompt=pl.Series(prompt[wanted]),
            action=log["model"].replace_strict(
                {m: j for j, m in enumerate(self.models)}, return_dtype=pl.Int64
            ),
            file=pl.lit(group.file_number),
        )
        mask = eligible_mask(log, self.models)
        arrow = columns.to_arrow()
        flat = pa.FixedSizeListArray.from_arrays(pa.array(mask.reshape(-1)), max(1, len(self.models)))
        yield arrow.append_column("eligible", flat)


@dataclass(frozen=True)
class VectorReader:
    """Reads a row group of the embeddings: the vectors of wanted prompts.

    Attributes:
        index: file of the :class:`PromptIndex`.
    """

    index: str

    def __call__(self, group: RowGroup) -> Iterator[pa.Table]:
        """Yield ``prompt, embedding`` in batches."""
        index = PromptIndex.open(self.index)
        with pq.ParquetFile(group.path, memory_map=True) as file:
            names = ["prompt_id", VECTOR_COLUMN]
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group.number], columns=names):
                table = pa.Table.from_batches([batch])
                prompt = index.find(table["prompt_id"])
                wanted = np.flatnonzero(
                    np.where(prompt >= 0, index.parts[np.maximum(prompt, 0)], NOT_WANTED) >= 0
                )
                vectors = table[VECTOR_COLUMN].combine_chunks()
                if len(wanted) < table.num_rows:
                    vectors = vectors.take(pa.array(wanted))
                yield pa.table({"prompt": prompt[wanted], VECTOR_COLUMN: vectors})


def eligible_mask(log: pl.DataFrame, models: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return which models could have been called, shape (n, K); names outside ``models`` are left out."""
    mask = np.zeros((log.height, len(models)), dtype=bool)
    named = log.select("eligible").with_row_index("row").explode("eligible").drop_nulls()
    column = {model: j for j, model in enumerate(models)}
    known = named.filter(pl.col("eligible").is_in(list(models)))
    at = known["eligible"].replace_strict(column, return_dtype=pl.Int64).to_numpy()
    mask[known["row"].to_numpy(), at] = True
    return mask


def event_numbers(log: pl.DataFrame, estimated_prompt_tokens: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Return the fields of :class:`LoggedFeedback` that are numbers of the log; a missing outcome is NaN.

    Args:
        log: columns of the feedback table.
        estimated_prompt_tokens: shape (n,), used where the log does not tell the prompt's length.
    """
    # As the router saw it, where it logged that: of a conversation, the text is an excerpt.
    told = log["estimated_prompt_tokens"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    w = log.select(pl.col("w_quality", "w_cost") / (pl.col("w_quality") + pl.col("w_cost")))
    return {
        "prompt_tokens": np.where(np.isnan(told), estimated_prompt_tokens, told),
        "preferences": w.to_numpy().astype(np.float32),
        "propensities": log["propensity"].to_numpy(),
        "scores": log["score"].fill_null(np.nan).to_numpy(),
        "costs_usd": log["cost_usd"].fill_null(np.nan).to_numpy(),
        "completion_tokens": log["completion_tokens"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
    }


def _collect(tables: Iterator[pa.Table]) -> pl.DataFrame:
    frame = pl.concat([to_polars(table) for table in tables])
    return frame.sort("file", "row")


def _check(events: pl.DataFrame, pool: ModelPool, files: Sequence[str]) -> None:
    if events["event_id"].n_unique() < events.height:
        row = int((~events["event_id"].is_first_distinct()).arg_max() or 0)
        event = events.row(row, named=True)
        raise InputError(
            f"{files[event['file']]}: row {event['row'] + 1}: duplicate key (event_id={event['event_id']!r}); "
            "allowed: one row per event"
        )
    eligible = _masks(events, pool)
    missed = np.flatnonzero(~eligible[np.arange(events.height), events["action"].to_numpy()])
    if missed.size:
        event = events.row(int(missed[0]), named=True)
        there = [model for model, may in zip(pool.models, event["eligible"]) if may]
        raise InputError(
            f"{files[event['file']]}: event '{event['event_id']}': model '{event['model']}' is not in its eligible "
            f"list {there}"
        )


def _masks(events: pl.DataFrame, pool: ModelPool) -> npt.NDArray[np.bool_]:
    return events["eligible"].to_numpy().reshape(events.height, len(pool.models)).astype(bool)


def _arrays(scored: pl.DataFrame, index: PromptIndex, pool: ModelPool) -> LoggedFeedback:
    """Return scored events without their vectors."""
    at = scored["prompt"].to_numpy()
    return LoggedFeedback(
        event_ids=_strings(scored["event_id"].to_arrow()),
        prompt_ids=_strings(index.ids.take(pa.array(at))),
        tasks=_strings(index.tasks.take(pa.array(at))),
        pool=pool,
        embeddings=np.empty((scored.height, 0), dtype=np.float32),
        eligible=_masks(scored, pool),
        actions=scored["action"].to_numpy(),
        **event_numbers(scored, index.prompt_tokens[at]),
    )


def _strings(column: pa.Array) -> npt.NDArray[np.str_]:
    """Return strings as a numpy array, a piece at a time: Python strings are large."""
    pieces = [
        np.asarray(column.slice(start, BATCH_ROWS).to_pylist(), dtype=np.str_)
        for start in range(0, len(column), BATCH_ROWS)
    ]
    return np.concatenate(pieces) if pieces else np.array([], dtype=np.str_)


def _write_vectors(
    tables: Iterator[pa.Table],
    index: PromptIndex,
    rows: Mapping[str, npt.NDArray[np.int64]],
    directory: Path,
    source: str,
) -> None:
    """Write each streamed vector to the rows of its prompt's events.

    Args:
        tables: ``prompt, embedding``, in any order.
        index: of the prompts.
        rows: part -> shape (n,), the events' prompts.
        directory: gets ``PART/embeddings.npy``.
        source: what messages call the embeddings.

    Raises:
        InputError: a prompt with an event has no vector.
    """
    by_prompt = {name: _EventsOfPrompts.of(prompt, len(index.ids)) for name, prompt in rows.items()}
    needed = np.zeros(len(index.ids), dtype=bool)
    for prompt in rows.values():
        needed[prompt] = True
    files: dict[str, np.memmap] = {}
    unflushed = 0
    for table in tables:
        prompt = table["prompt"].to_numpy()
        vectors = to_matrix(table[VECTOR_COLUMN])
        for name, events in by_prompt.items():
            if len(rows[name]) == 0:
                continue
            if name not in files:
                files[name] = _new_file(directory / name, len(rows[name]), vectors.shape[1])
            target, origin = events.of_prompts(prompt)
            files[name][target] = vectors[origin]
            unflushed += len(target) * vectors.shape[1] * 4
        needed[prompt] = False
        if unflushed > RESIDENT_BYTES:
            unflushed = 0
            for file in files.values():
                _release(file)
    missing = np.flatnonzero(needed)
    if missing.size:
        raise InputError(
            f"{source}: prompt '{index.ids[int(missing[0])].as_py()}' has no embedding ({missing.size} in all); "
            f"run `python -m pipeline embed run.dir={Path(source).parent}`"
        )
    for file in files.values():
        _release(file)


@dataclass(frozen=True)
class _EventsOfPrompts:
    """Events sorted by prompt: those of prompt p are ``order[starts[p] : starts[p + 1]]``."""

    order: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, prompt: npt.NDArray[np.int64], n_prompts: int) -> _EventsOfPrompts:
        counts = np.bincount(prompt, minlength=n_prompts)
        starts = np.concatenate([[0], np.cumsum(counts)])
        return cls(np.argsort(prompt, kind="stable"), starts)

    def of_prompts(
        self, prompt: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the events of prompts and, for each event, the position of its prompt in ``prompt``."""
        counts = self.starts[prompt + 1] - self.starts[prompt]
        origin = np.repeat(np.arange(len(prompt)), counts)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        return self.order[self.starts[prompt][origin] + np.arange(len(origin)) - first], origin


def _new_file(folder: Path, n: int, dimension: int) -> np.memmap:
    folder.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(
        folder / "embeddings.npy", mode="w+", dtype=np.float32, shape=(n, dimension)
    )


def _release(file: np.memmap) -> None:
    """Let the system take the written pages back; what was written stays in the file."""
    file.flush()
    pages = file.base
    assert isinstance(pages, mmap.mmap)
    pages.madvise(mmap.MADV_DONTNEED)


def _mapped(folder: Path) -> npt.NDArray[np.float32]:
    path = folder / "embeddings.npy"
    return np.load(path, mmap_mode="r") if path.exists() else np.empty((0, 0), dtype=np.float32)
