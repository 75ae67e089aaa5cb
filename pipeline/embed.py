"""Stage 2: prompts to vectors, on Ray Data with a pool of encoder actors.

A text is encoded once, ever: equal texts share a vector (content hash), and vectors live in a store that runs
share. Actors write a shard as soon as it is done, so a killed run goes on where it stopped. The prompts table streams
by; what the driver holds is 16 bytes a prompt and about 30 a stored text, and twice that for moments, when it sorts:
100 bytes of a prompt and its text, or 10 GB of 100 million.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from pipeline.cluster import ray_session
from pipeline.config import TradewindConfig
from pipeline.console import say
from pipeline.embedding_parts import Counts, TableWriter
from pipeline.embedding_store import DamagedShardError, EmbeddingStore, Places
from pipeline.embedding_table import EmbeddingTable, read_embeddings
from pipeline.encode import encode_missing
from pipeline.layout import RunLayout
from pipeline.paraphrases import group_prompts
from pipeline.prompt_stream import PromptStream
from pipeline.served_log import check_texts, import_vectors
from pipeline.splits import join_groups
from pipeline.tables import read_table, write_table
from pipeline.text_digests import Keys, first_occurrences, keys_of_texts
from policies.bundle import EncoderIdentity
from policies.encoder import content_hash, encoder_identity, explain_backend
from policies.schemas import PROMPTS

__all__ = ["embed_table", "read_embeddings", "run", "store_path"]

ROUNDS = 3
"""How often shards that turn out damaged are encoded again before the disk is blamed."""

MOST_GROUPED = 250_000
"""Prompts of a table in which paraphrases are looked for: texts and vectors take 1 GB of memory then."""


def run(config: TradewindConfig) -> None:
    """Write the embeddings table of the run's prompts, and bring paraphrases into one split.

    Raises:
        InputError: no prompts table yet, an encoder that cannot be had, or a store that holds another's shards.
    """
    layout = RunLayout.of(config)
    prompts = PromptStream.of(str(layout.need(layout.prompts, "ingest")))
    with ExitStack() as stack:
        job = _Embedding(prompts, config, None, stack)
        writer = TableWriter(layout.embeddings, prompts, job.store)
        stack.callback(writer.discard)
        for places in job.rounds():
            if writer.needs_ray:
                stack.enter_context(ray_session(config))
            if writer.write(places):
                writer.publish(job.counts)
                break
    _join_paraphrases(prompts.rows, config)


def store_path(config: TradewindConfig) -> str:
    """Return the folder or URI where actors write vectors; every node of a cluster must see it."""
    return config.encoder.store or f"{config.run.root}/embeddings"


def _join_paraphrases(rows: int, config: TradewindConfig) -> None:
    """Rewrite the run's splits, from those of the texts, so that no group of paraphrases is parted."""
    layout = RunLayout.of(config)
    if not layout.splits.exists():  # prompts alone: there is nothing to keep apart
        return
    if rows > MOST_GROUPED:
        say(
            f"embed: {rows} prompts are more than {MOST_GROUPED}: paraphrases are not looked for; copies of a text "
            "share a split, as ingest put them"
        )
        return
    prompts = read_table(PROMPTS, str(layout.prompts))
    stored = pl.read_parquet(layout.splits)
    if "text_split" not in stored.columns:
        stored = stored.with_columns(text_split="split")
    ids = pl.DataFrame({"prompt_id": prompts["prompt_id"].to_pylist()})
    splits = ids.join(stored, on="prompt_id", how="left", maintain_order="left")
    alone = splits["text_split"].to_numpy().astype(object)
    joined = alone
    if config.data.split.paraphrase_cosine is not None:
        vectors = read_embeddings(layout.embeddings)[1]
        groups = group_prompts(prompts["prompt"].to_pylist(), vectors, config.data.split.paraphrase_cosine)
        joined = join_groups(alone, groups.keys, groups.labels, config.data.split.salt)
        sizes = np.bincount(groups.labels)
        sizes = sizes[sizes > 1]
        say(
            f"embed: {len(sizes)} groups of copies and paraphrases hold {sizes.sum()} of {len(alone)} prompts "
            f"(largest: {sizes.max(initial=0)}); {(joined != alone).sum()} changed the split to stay together"
        )
        if groups.n_not_compared:
            say(
                f"embed: {groups.n_not_compared} prompts are too many to compare: only copies are grouped there"
            )
    write_table(splits.with_columns(split=pl.Series(joined.astype(str))).to_arrow(), str(layout.splits))


def embed_table(
    prompts: pa.Table, config: TradewindConfig, identity: EncoderIdentity | None = None
) -> EmbeddingTable:
    """Return the vectors of a prompts table in memory, encoding only texts that the store does not hold.

    Args:
        prompts: a table of :data:`policies.schemas.PROMPTS`.
        config: ``encoder``, ``run.root`` and ``cluster`` are read.
        identity: the encoder to use; None means the configured one.

    Raises:
        InputError: see :func:`policies.encoder.load_encoder`; or a shard of another encoder in the store.
    """
    with ExitStack() as stack:
        job = _Embedding(prompts["prompt"], config, identity, stack)
        for places in job.rounds():
            try:
                vectors = job.store.gather(places)
            except DamagedShardError:
                continue
            break
    ids = prompts["prompt_id"].to_numpy(zero_copy_only=False)
    hashes = np.array([content_hash(text) for text in prompts["prompt"].to_pylist()], dtype=object)
    return EmbeddingTable(ids, hashes, vectors, job.store.identity)


class _Embedding:
    """Brings the texts of a table into the store; Ray starts on ``stack`` when there is work for it."""

    def __init__(
        self,
        prompts: PromptStream | pa.ChunkedArray,
        config: TradewindConfig,
        identity: EncoderIdentity | None,
        stack: ExitStack,
    ) -> None:
        encoder = config.encoder
        self._who = identity or encoder_identity(encoder.model, encoder.wanted_backend, encoder.max_tokens)
        self.store = EmbeddingStore(store_path(config), self._who, encoder.dtype)
        self.counts = Counts(0, 0, 0, 0)
        self._prompts = prompts
        self._config = config
        self._stack = stack

    def rounds(self) -> Iterator[Places]:
        """Yield where each row's vector is; again where the caller finds a shard damaged, and comes back.

        Raises:
            InputError: see :func:`embed_table`.
            OSError: shards are damaged again and again.
        """
        if self._config.data.embeddings is not None:
            import_vectors(self._config.data.embeddings, self.store)
        keys = self._keys()
        first = first_occurrences(keys)
        for round_ in range(ROUNDS):
            index = self.store.index()
            missing = first & index.lacks(keys)
            if round_ == 0:
                self._tell(int(first.sum()), int(missing.sum()), len(keys))
            if missing.any():
                check_texts(self._missing_texts(missing))
                self._stack.enter_context(ray_session(self._config))
                encode_missing(self._prompts, missing, self.store, self._config)
                index = self.store.index()
                if index.lacks(keys).any():
                    continue
            yield index.places(keys)
        raise OSError(
            f"{self.store.folder}: shards are unreadable {ROUNDS} times in a row, just after they were written"
        )

    def _keys(self) -> Keys:
        parts = [keys_of_texts(texts.to_pylist()) for texts in self._texts()]
        return np.concatenate(parts)

    def _texts(self) -> Iterator[pa.ChunkedArray]:
        if isinstance(self._prompts, PromptStream):
            for table in self._prompts.tables():
                yield table["prompt"]
        else:
            yield self._prompts

    def _missing_texts(self, missing: npt.NDArray[np.bool_]) -> Iterator[pa.ChunkedArray]:
        start = 0
        for texts in self._texts():
            yield texts.filter(pa.array(missing[start : start + len(texts)]))
            start += len(texts)

    def _tell(self, distinct: int, missing: int, rows: int) -> None:
        self.counts = Counts(rows, distinct, missing, distinct - missing)
        encoder, who = self._config.encoder, self._who
        say(
            f"embed: {rows} prompts, {distinct} distinct texts, {missing} to encode "
            f"({who.name}, {who.backend}: {explain_backend(encoder.wanted_backend, who.backend)})"
        )
