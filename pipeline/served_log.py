"""What the endpoint's log has that other logs have not: prompts in several files, vectors in place of texts."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.console import say
from pipeline.embedding_store import EmbeddingStore
from pipeline.embedding_table import VECTOR_COLUMN, same_vectors, to_matrix, vector_batches
from pipeline.tables import data_files
from pipeline.text_digests import first_occurrences, keys_of_hashes
from policies.errors import InputError
from policies.schemas import UNLOGGED

SHARD_ROWS = 32_768


def distinct_prompts(prompts: pl.DataFrame) -> npt.NDArray[np.bool_]:
    """Return which rows of a prompts table to keep, shape (n,), so that each prompt is there once.

    The endpoint logs a prompt anew in each of its files, and, where logging of texts was switched on or off, once
    with its text and once with what stands for it: then the text is kept. Other contradictions stay, for the check
    of the table's key to tell.
    """
    stands_in = pl.col("prompt").str.starts_with(UNLOGGED)
    has_text = (~stands_in).any().over("prompt_id")
    first = pl.struct(pl.all()).is_first_distinct()
    return prompts.select(first & ~(stands_in & has_text)).to_series().to_numpy()


def import_vectors(uri: str, store: EmbeddingStore) -> None:
    """Put the vectors of an embeddings table into the store, so that their texts need not be encoded.

    The table is read a batch at a time, its hashes first, so it may be larger than memory.

    Raises:
        InputError: the table cannot be read, or is of another encoder than the store's.
    """
    fs, files = data_files(uri)  # once: an endpoint may be adding to them
    keys = [np.empty((0, 2), dtype=np.uint64)]
    for path, identity, batch in vector_batches(fs, files, SHARD_ROWS, columns=["content_hash"]):
        if not same_vectors(identity, store.identity):
            raise InputError(
                f"data.embeddings={uri}: vectors of {identity}; allowed: those of the configured encoder, "
                f"{store.identity}"
            )
        keys.append(keys_of_hashes(batch["content_hash"].to_pylist(), path))
    joined = np.concatenate(keys)
    new = first_occurrences(joined) & store.index().lacks(joined)
    start = 0
    for _, _, batch in vector_batches(fs, files, SHARD_ROWS, columns=["content_hash", VECTOR_COLUMN]):
        rows = batch.filter(pa.array(new[start : start + batch.num_rows]))
        start += batch.num_rows
        if rows.num_rows:
            store.write_shard(rows["content_hash"].to_pylist(), to_matrix(rows[VECTOR_COLUMN]))
    say(f"embed: {new.sum()} vectors taken from {uri}")


def check_texts(missing: Iterable[pa.ChunkedArray]) -> None:
    """Raise InputError if a text that is to be encoded was never logged."""
    first, unlogged = None, 0
    for texts in missing:
        bad = texts.filter(pc.starts_with(texts, UNLOGGED))
        if len(bad) and first is None:
            first = bad[0].as_py().removeprefix(UNLOGGED)
        unlogged += len(bad)
    if unlogged:
        raise InputError(
            f"prompt '{first}': neither text nor vector was logged ({unlogged} in all); set "
            "data.embeddings to the log's folder of embeddings, or leave these prompts out"
        )
