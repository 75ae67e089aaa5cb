"""Prompt id -> row, length and part: a sorted index that every worker of a stream maps into memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.layout import RunLayout
from pipeline.tables import to_polars
from policies.costs import CHARACTERS_PER_TOKEN

NOT_WANTED = -1
SEED_KEY = b"tradewind.hash_seed"


@dataclass(frozen=True)
class PromptIndex:
    """Prompts sorted by a hash of their id; a prompt's *row* is its place in that order.

    Attributes:
        ids: shape (n,), prompt ids.
        hashes: shape (n,), uint64, strictly ascending.
        seed: of the hash; one under which no two ids collide.
        parts: shape (n,), int8, number of the part that wants the prompt, -1 where none does.
        prompt_tokens: shape (n,), estimated.
        tasks: shape (n,), empty where unknown.
    """

    ids: pa.Array
    hashes: npt.NDArray[np.uint64]
    seed: int
    parts: npt.NDArray[np.int8]
    prompt_tokens: npt.NDArray[np.float64]
    tasks: pa.Array

    @classmethod
    def build(cls, layout: RunLayout, part_of: Mapping[str, int]) -> Self:
        """Read a run's prompts and splits; texts are measured while they stream by, not kept.

        Args:
            layout: the run.
            part_of: number of the part by split; prompts of other splits are not wanted.

        Raises:
            InputError: there are no such tables yet.
        """
        prompts = pl.scan_parquet(layout.need(layout.prompts, "ingest")).select(
            "prompt_id",
            task=pl.col("task").fill_null(""),
            tokens=(pl.col("prompt").str.len_chars() / CHARACTERS_PER_TOKEN).ceil().clip(lower_bound=1.0),
        )
        splits = pl.scan_parquet(layout.need(layout.splits, "ingest")).select(
            "prompt_id",
            part=pl.col("split").replace_strict(part_of, default=NOT_WANTED, return_dtype=pl.Int8),
        )
        frame = prompts.join(splits, on="prompt_id", how="left").collect(engine="streaming")
        frame = frame.with_columns(pl.col("part").fill_null(NOT_WANTED))
        seed = 0
        while frame["prompt_id"].hash(seed).n_unique() < frame.height:
            seed += 1
        frame = frame.with_columns(hash=pl.col("prompt_id").hash(seed)).sort("hash")
        return cls._of(frame.to_arrow().replace_schema_metadata({SEED_KEY: str(seed)}))

    @classmethod
    def open(cls, path: str) -> Self:
        """Map what :meth:`write` wrote."""
        with pa.memory_map(path) as source:
            return cls._of(pa.ipc.open_file(source).read_all())

    @classmethod
    def _of(cls, table: pa.Table) -> Self:
        column = {
            name: table[name].combine_chunks() for name in ("prompt_id", "task", "hash", "part", "tokens")
        }
        return cls(
            ids=column["prompt_id"].cast(pa.large_string()),
            hashes=column["hash"].to_numpy(),
            seed=int(table.schema.metadata[SEED_KEY]),
            parts=column["part"].to_numpy(),
            prompt_tokens=column["tokens"].to_numpy(),
            tasks=column["task"].cast(pa.large_string()),
        )

    def write(self, path: Path) -> None:
        """Write an Arrow file that can be mapped."""
        table = pa.table(
            {
                "prompt_id": self.ids,
                "task": self.tasks,
                "hash": self.hashes,
                "part": self.parts,
                "tokens": self.prompt_tokens,
            }
        ).replace_schema_metadata({SEED_KEY: str(self.seed)})
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    def find(self, prompt_ids: pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """Return each id's row, shape (m,), -1 where it is not in the index."""
        if len(self.hashes) == 0 or len(prompt_ids) == 0:
            return np.full(len(prompt_ids), -1, dtype=np.int64)
        hashes = to_polars(pa.table({"id": prompt_ids}))["id"].hash(self.seed).to_numpy()
        row = np.searchsorted(self.hashes, hashes).clip(max=len(self.hashes) - 1)
        # An id that is not here may share the hash of one that is: the ids themselves decide.
        same = pc.equal(self.ids.take(pa.array(row)), prompt_ids.cast(pa.large_string()).combine_chunks())
        return np.where(same.to_numpy(zero_copy_only=False), row, -1)
