"""The run's embeddings table, written part by part, with a manifest that tells what ought to be there.

A part is one file of one row group, and parts are of equal size up to a row: a reader takes one at a time, or maps
it without a copy. All appear at once, by a rename of their folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import deque
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayError

from pipeline.cluster import user_error
from pipeline.embedding_store import DamagedShardError, EmbeddingStore, Places
from pipeline.embedding_table import MANIFEST, PARQUET_OPTIONS, identity_metadata, to_arrow_vectors
from pipeline.prompt_stream import PromptStream
from pipeline.tables import write_table
from policies.encoder import content_hash
from policies.leftovers import put_in_place, remove_leftovers, temporary_beside
from policies.schemas import embeddings_spec

PART_ROWS = 32_768
"""Most rows of a part: 50 MB of 384 float32 entries, of which a writer holds about three times as much."""

PARTS_ALONE = 8
"""Up to so many parts are written by the driver: starting Ray takes longer."""


@dataclass(frozen=True)
class PartFile:
    """A file of the table.

    Attributes:
        name: within the table's folder.
        rows: how many it holds.
        bytes: its size.
        sha256: of its bytes.
    """

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Counts:
    """How the table came about.

    Attributes:
        rows: prompts.
        distinct_texts: of them.
        encoded: texts that this run encoded.
        reused: texts that the store held.
    """

    rows: int
    distinct_texts: int
    encoded: int
    reused: int


def part_edges(rows: int, part_rows: int) -> list[tuple[int, int]]:
    """Return (first row, row after the last) of each part; sizes differ by a row at most."""
    parts = -(-rows // part_rows)
    edges = np.arange(parts + 1) * rows // parts
    return [(int(a), int(b)) for a, b in pairwise(edges)]


def write_part(
    prompts: PromptStream, start: int, stop: int, places: Places, store: EmbeddingStore, path: Path
) -> PartFile:
    """Write the rows from ``start`` to before ``stop`` of the table and return the manifest's entry.

    Raises:
        DamagedShardError: see :meth:`EmbeddingStore.gather`.
    """
    identity = store.identity
    vectors = store.gather(places)
    table = prompts.read(start, stop)
    hashes = [content_hash(text) for text in table["prompt"].to_pylist()]
    schema = embeddings_spec(identity.dimension, half=store.dtype == "float16").schema
    columns = [table["prompt_id"], pa.array(hashes, pa.string()), to_arrow_vectors(vectors)]
    arrow = pa.table(columns, schema=schema.with_metadata(identity_metadata(identity)))
    write_table(
        arrow, str(path), row_group_rows=stop - start, parquet_options=PARQUET_OPTIONS, many_writers=True
    )
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return PartFile(path.name, stop - start, path.stat().st_size, digest)


class TableWriter:
    """Writes a table into a folder beside its own, which takes the place of the old one in the end."""

    def __init__(self, folder: Path, prompts: PromptStream, store: EmbeddingStore) -> None:
        self._folder = folder
        self._staging = temporary_beside(folder)
        self._staging.mkdir(parents=True)
        remove_leftovers(folder.parent, folder.name)
        self._prompts = prompts
        self._store = store
        self._edges = part_edges(prompts.rows, PART_ROWS)
        self._done: dict[int, PartFile] = {}

    @property
    def needs_ray(self) -> bool:
        """Whether parts are written by Ray tasks."""
        return len(self._edges) > PARTS_ALONE

    def write(self, places: Places) -> bool:
        """Write the parts that are not there yet; return whether all are.

        Many parts are written by Ray tasks, a CPU each; Ray is initialised where it is needed.

        Args:
            places: of all rows of the table.
        """
        todo = [number for number in range(len(self._edges)) if number not in self._done]
        if not self.needs_ray:
            for number in todo:
                self._keep(number, _try_part(*self._arguments(number, places)))
            return len(self._done) == len(self._edges)
        task = ray.remote(num_cpus=1)(_try_part)
        at_once = max(1, int(ray.cluster_resources().get("CPU", 1)))
        running: deque[tuple[int, Any]] = deque()
        for number in todo:
            if len(running) == at_once:
                first, reference = running.popleft()
                self._keep(first, _result(reference))
            running.append((number, task.remote(*self._arguments(number, places))))
        for number, reference in running:
            self._keep(number, _result(reference))
        return len(self._done) == len(self._edges)

    def publish(self, counts: Counts) -> None:
        """Write the manifest and put the finished folder in its place."""
        files = [self._done[number] for number in range(len(self._edges))]
        manifest = {
            **asdict(counts),
            "encoder": asdict(self._store.identity),
            "dtype": self._store.dtype,
            "files": [asdict(file) for file in files],
        }
        (self._staging / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        for left in self._staging.glob(
            "*.tmp"
        ):  # of tasks that were lost, or go on although they were started anew
            left.unlink(missing_ok=True)
        put_in_place(self._staging, self._folder)

    def discard(self) -> None:
        """Remove what has been written, unless it was published."""
        shutil.rmtree(self._staging, ignore_errors=True)

    def _arguments(self, number: int, places: Places) -> tuple[Any, ...]:
        start, stop = self._edges[number]
        path = self._staging / f"part-{number:05d}.parquet"
        return self._prompts, start, stop, places.part(start, stop), self._store, path

    def _keep(self, number: int, part: PartFile | None) -> None:
        if part is not None:
            self._done[number] = part


def _result(reference: ray.ObjectRef) -> PartFile | None:
    try:
        part: PartFile | None = ray.get(reference)
    except RayError as error:
        raise user_error(error) from error
    return part


def _try_part(*arguments: Any) -> PartFile | None:
    """Return None where a shard is damaged: the other parts are written all the same."""
    try:
        return write_part(*arguments)
    except DamagedShardError:
        return None
