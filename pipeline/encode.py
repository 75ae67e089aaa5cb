"""Texts that the store lacks become shards: windows of the prompts table, encoded by a pool of actors on Ray Data.

An actor is told which rows of a window to encode, not their texts: it reads them itself, sorts them by length, so
that texts of like length share a forward pass, and writes a shard every ``encoder.block_rows`` texts. Nothing but
row numbers and counts travels. Windows are cut by place in the table alone, so that a killed run that goes on forms
the same shards, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from pipeline.cluster import user_error
from pipeline.config import TradewindConfig
from pipeline.config.data import EncoderConfig
from pipeline.console import progress, say
from pipeline.embedding_store import EmbeddingStore
from pipeline.prompt_stream import PromptStream
from pipeline.row_groups import RowGroup
from policies.encoder import content_hash, load_encoder
from policies.errors import InputError

WINDOW_SHARDS = 8
"""Most shards that are sorted by length together; what a lost actor's successor may have to look through again."""

LEAST_WINDOWS = 16
"""A small table is cut into at least so many windows, lest one actor be left with the work."""

TEXT_COLUMN = "prompt"


@dataclass(frozen=True)
class Window:
    """Rows of one row group.

    Attributes:
        group: index of the row group in its stream.
        start: first row, counted over the whole table.
        stop: row after the last.
    """

    group: int
    start: int
    stop: int


def cut_windows(groups: Sequence[tuple[int, int]], block_rows: int) -> list[Window]:
    """Return windows of nearly equal size that cover ``groups``, each given as (first row, rows).

    The cut depends on the table and ``block_rows`` alone, not on what is left to do nor on the number of actors.
    """
    total = sum(rows for _, rows in groups)
    shards = min(WINDOW_SHARDS, max(1, -(-total // (LEAST_WINDOWS * block_rows))))
    windows = []
    for number, (first, rows) in enumerate(groups):
        pieces = -(-rows // (shards * block_rows))
        edges = first + np.arange(pieces + 1) * rows // max(pieces, 1)
        windows += [Window(number, int(a), int(b)) for a, b in pairwise(edges)]
    return windows


def shard_slices(texts: Sequence[str], block_rows: int) -> list[npt.NDArray[np.int64]]:
    """Return the rows of each shard: the shortest texts first, ``block_rows`` a shard."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    return [order[start : start + block_rows] for start in range(0, len(order), block_rows)]


def window_blocks(
    windows: Sequence[Window], missing: npt.NDArray[np.bool_], prompts: PromptStream | pa.ChunkedArray
) -> list[pa.Table]:
    """Return a block for each window with missing rows: which rows, as bits, or the texts of a table in memory."""
    blocks = []
    for window in windows:
        mask = missing[window.start : window.stop]
        if not mask.any():
            continue
        if isinstance(prompts, PromptStream):
            row = {
                "group": asdict(prompts.groups[window.group]),
                "start": window.start,
                "rows": window.stop - window.start,
                "bits": np.packbits(mask).tobytes(),
            }
            blocks.append(pa.Table.from_pylist([row]))
        else:
            texts = prompts.slice(window.start, window.stop - window.start).filter(pa.array(mask))
            blocks.append(pa.table({TEXT_COLUMN: texts}))
    return blocks


class ShardEncoder:
    """An actor that encodes windows and writes shards; only counts travel back."""

    def __init__(self, store: EmbeddingStore, encoder: EncoderConfig, uri: str) -> None:
        self._store = store
        self._block_rows = encoder.block_rows
        self._stream = PromptStream(uri, ())
        self._held: tuple[RowGroup, pa.ChunkedArray] | None = None
        who = store.identity
        self._encoder = load_encoder(who.name, who.backend, who.max_tokens, encoder.batch_tokens, threads=1)
        found = self._encoder.identity.weights_sha256
        if found != who.weights_sha256:
            raise InputError(
                f"encoder.model={who.name}: this node holds weights {found[:12]}, "
                f"the driver {who.weights_sha256[:12]}"
            )

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """Encode the texts of blocks of :func:`window_blocks`; yield the number of rows of each shard."""
        if TEXT_COLUMN in block.column_names:
            yield from self._encode(block[TEXT_COLUMN].to_pylist())
            return
        for row in block.to_pylist():
            yield from self._encode(self._texts(row))

    def _texts(self, row: Mapping[str, Any]) -> list[str]:
        group = RowGroup(**row["group"])
        # Windows of a row group come one after the other.
        if self._held is None or self._held[0] != group:
            self._held = None
            self._held = (group, self._stream.read_group(group)[TEXT_COLUMN])
        mask = np.unpackbits(np.frombuffer(row["bits"], dtype=np.uint8), count=row["rows"]).astype(bool)
        column = self._held[1].slice(row["start"] - group.start, row["rows"])
        texts: list[str] = column.filter(pa.array(mask)).to_pylist()
        return texts

    def _encode(self, texts: list[str]) -> Iterator[pa.Table]:
        for rows in shard_slices(texts, self._block_rows):
            shard = [texts[row] for row in rows]
            hashes = [content_hash(text) for text in shard]
            # An actor that died may have come this far with the same window.
            if not self._store.holds(hashes):
                self._store.write_shard(hashes, self._encoder.encode(shard))
            yield pa.table({"rows": [len(shard)]})


def pool_options(encoder: EncoderConfig, resources: Mapping[str, float], n_blocks: int) -> dict[str, Any]:
    """Return what Ray Data is told about the actors: how many, and what each takes.

    A fixed pool is not larger than the cluster is now; one that may grow starts as large and can wait for nodes
    that an autoscaler adds.
    """
    now = max(int(resources.get("CPU", 1)), 1)
    if encoder.num_gpus_per_actor:
        now = min(now, max(int(resources.get("GPU", 0) / encoder.num_gpus_per_actor), 1))
    start = max(1, min(encoder.num_actors, now, n_blocks))
    options: dict[str, Any] = {"num_cpus": 1, "compute": ActorPoolStrategy(size=start)}
    if encoder.max_actors is not None:
        most = max(start, min(encoder.max_actors, n_blocks))
        options["compute"] = ActorPoolStrategy(min_size=start, max_size=most)
    if encoder.num_gpus_per_actor:
        options["num_gpus"] = encoder.num_gpus_per_actor
    return options


def encode_missing(
    prompts: PromptStream | pa.ChunkedArray,
    missing: npt.NDArray[np.bool_],
    store: EmbeddingStore,
    config: TradewindConfig,
) -> None:
    """Encode the missing rows of a prompts table into the store; Ray is initialised.

    Args:
        prompts: the table as a stream, or its texts in memory.
        missing: shape (n,), rows to encode: of equal texts one.
        store: gets the shards.
        config: ``encoder`` and ``cluster`` are read.

    Raises:
        InputError: the encoder cannot be had on a node, or the cluster has no GPU where one is asked for.
    """
    encoder = config.encoder
    if isinstance(prompts, PromptStream):
        uri = prompts.uri
        groups = [(group.start, group.rows) for group in prompts.groups]
    else:
        uri = ""
        groups = [(0, len(prompts))]
    blocks = window_blocks(cut_windows(groups, encoder.block_rows), missing, prompts)
    resources = ray.cluster_resources()
    _check_gpus(config, resources)
    with progress(int(missing.sum()), "embed", unit="prompt") as bar:
        counts = ray.data.from_arrow(blocks).map_batches(
            ShardEncoder,
            fn_constructor_args=(store, encoder, uri),
            batch_size=None,
            batch_format="pyarrow",
            **pool_options(encoder, resources, len(blocks)),
        )
        try:
            for done in counts.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                bar.update(sum(done["rows"].to_pylist()))
        except RayError as error:
            raise user_error(error) from error


def _check_gpus(config: TradewindConfig, resources: Mapping[str, float]) -> None:
    wanted = config.encoder.num_gpus_per_actor
    if not wanted or resources.get("GPU", 0.0) >= wanted:
        return
    if config.cluster.address == "local":
        raise InputError(
            f"encoder.num_gpus_per_actor={wanted:g}: this machine has {resources.get('GPU', 0.0):g} GPUs; "
            "allowed: 0 here, or cluster.address of a cluster with GPUs"
        )
    say(f"embed: waits for a node with a GPU (encoder.num_gpus_per_actor={wanted:g})")
