"""Stage 2: prompts to vectors, on Ray Data with a pool of encoder actors.

A text is encoded once, ever: equal texts share a vector (content hash), and vectors live in a store that runs
share. Actors write a shard as soon as a block is done, so a killed run goes on where it stopped.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from pipeline.cluster import ray_session, user_error
from pipeline.config import TradewindConfig
from pipeline.console import progress, say
from pipeline.embedding_store import HASH_COLUMN, DamagedShardError, EmbeddingStore
from pipeline.embedding_table import EmbeddingTable, read_embeddings, write_embeddings
from pipeline.layout import RunLayout
from pipeline.paraphrases import group_prompts
from pipeline.served_log import check_texts, import_vectors
from pipeline.splits import join_groups
from pipeline.tables import read_table, write_table
from policies.bundle import EncoderIdentity
from policies.encoder import content_hash, encoder_identity, load_encoder
from policies.errors import InputError
from policies.schemas import PROMPTS

__all__ = ["embed_table", "read_embeddings", "run"]

ROUNDS = 3
"""How often shards that turn out damaged are encoded again before the disk is blamed."""


def run(config: TradewindConfig) -> None:
    """Write the embeddings table of the run's prompts, and bring paraphrases into one split.

    Raises:
        InputError: no prompts table yet, an encoder that cannot be had, or a store that holds another's shards.
    """
    layout = RunLayout.of(config)
    prompts = read_table(PROMPTS, str(layout.need(layout.prompts, "ingest")))
    table = embed_table(prompts, config)
    write_embeddings(table, layout.embeddings)
    _join_paraphrases(prompts, table, config)


def _join_paraphrases(prompts: pa.Table, table: EmbeddingTable, config: TradewindConfig) -> None:
    """Rewrite the run's splits, from those of the texts, so that no group of paraphrases is parted."""
    layout = RunLayout.of(config)
    if not layout.splits.exists():  # prompts alone: there is nothing to keep apart
        return
    stored = pl.read_parquet(layout.splits)
    if "text_split" not in stored.columns:
        stored = stored.with_columns(text_split="split")
    ids = pl.DataFrame({"prompt_id": prompts["prompt_id"].to_pylist()})
    splits = ids.join(stored, on="prompt_id", how="left", maintain_order="left")
    alone = splits["text_split"].to_numpy().astype(object)
    joined = alone
    if config.data.split.paraphrase_cosine is not None:
        groups = group_prompts(
            prompts["prompt"].to_pylist(), table.vectors, config.data.split.paraphrase_cosine
        )
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
    """Return the vectors of a prompts table, encoding only texts that the store does not hold.

    Args:
        prompts: a table of :data:`policies.schemas.PROMPTS`.
        config: ``encoder``, ``run.root`` and ``cluster`` are read.
        identity: the encoder to use; None means the configured one.

    Raises:
        InputError: see :func:`policies.encoder.load_encoder`; or a shard of another encoder in the store.
    """
    encoder = config.encoder
    who = identity or encoder_identity(encoder.model, encoder.backend, encoder.max_tokens)
    store = EmbeddingStore(encoder.store or f"{config.run.root}/embeddings", who, encoder.dtype)
    texts = prompts["prompt"].to_pylist()
    hashes = [content_hash(text) for text in texts]
    distinct = pl.DataFrame({HASH_COLUMN: hashes, "prompt": texts}).unique(HASH_COLUMN, maintain_order=True)
    if config.data.embeddings is not None:
        import_vectors(config.data.embeddings, store)
    for round_ in range(ROUNDS):
        index = store.index()
        missing = distinct.join(index, on=HASH_COLUMN, how="anti", maintain_order="left")
        if round_ == 0:
            say(
                f"embed: {len(texts)} prompts, {distinct.height} distinct texts, {missing.height} to encode "
                f"({who.name}, {who.backend})"
            )
        if missing.height:
            check_texts(missing)
            _encode_missing(missing, store, config)
            index = store.index()
            if distinct.join(index, on=HASH_COLUMN, how="anti").height:
                continue
        try:
            vectors = store.gather(hashes, index)
        except DamagedShardError:
            continue
        ids = prompts["prompt_id"].to_numpy(zero_copy_only=False)
        return EmbeddingTable(ids, pl.Series(hashes, dtype=pl.String).to_numpy(), vectors, who)
    raise OSError(
        f"{store.folder}: shards are unreadable {ROUNDS} times in a row, just after they were written"
    )


class ShardEncoder:
    """An actor that encodes blocks of texts and writes each as a shard; only counts travel back."""

    def __init__(self, store: EmbeddingStore, batch_tokens: int) -> None:
        self._store = store
        who = store.identity
        self._encoder = load_encoder(who.name, who.backend, who.max_tokens, batch_tokens, threads=1)
        found = self._encoder.identity.weights_sha256
        if found != who.weights_sha256:
            raise InputError(
                f"encoder.model={who.name}: this node holds weights {found[:12]}, "
                f"the driver {who.weights_sha256[:12]}"
            )

    def __call__(self, block: pa.Table) -> pa.Table:
        """Encode and store a block of ``content_hash, prompt``; return its number of rows."""
        vectors = self._encoder.encode(block["prompt"].to_pylist())
        self._store.write_shard(block[HASH_COLUMN].to_pylist(), vectors)
        return pa.table({"rows": [block.num_rows]})


def _encode_missing(missing: pl.DataFrame, store: EmbeddingStore, config: TradewindConfig) -> None:
    encoder = config.encoder
    blocks = [part.to_arrow() for part in missing.iter_slices(encoder.block_rows)]
    with ray_session(config), progress(missing.height, "embed", unit="prompt") as bar:
        cpus = int(ray.cluster_resources().get("CPU", 1))
        actors = min(encoder.num_actors, max(cpus, 1), len(blocks))
        counts = ray.data.from_arrow(blocks).map_batches(
            ShardEncoder,
            fn_constructor_args=(store, encoder.batch_tokens),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=actors),
            num_cpus=1,
        )
        try:
            for done in counts.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                bar.update(sum(done["rows"].to_pylist()))
        except RayError as error:
            raise user_error(error) from error
