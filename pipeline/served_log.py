"""What the endpoint's log has that other logs have not: prompts in several files, vectors in place of texts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from pipeline.console import say
from pipeline.embedding_store import EmbeddingStore
from pipeline.embedding_table import read_table_of_vectors, same_vectors, to_matrix
from pipeline.tables import to_polars
from policies.errors import InputError
from policies.schemas import UNLOGGED

SHARD_ROWS = 65_536


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

    Raises:
        InputError: the table cannot be read, or is of another encoder than the store's.
    """
    table, identity = read_table_of_vectors(uri)
    if not same_vectors(identity, store.identity):
        raise InputError(
            f"data.embeddings={uri}: vectors of {identity}; allowed: those of the configured encoder, {store.identity}"
        )
    hashes = to_polars(table.select(["content_hash"])).with_row_index("row")
    new = hashes.unique("content_hash", maintain_order=True).join(
        store.index(), on="content_hash", how="anti"
    )
    for part in new.sort("row").iter_slices(SHARD_ROWS):
        rows = table.take(pa.array(part["row"].to_numpy()))
        store.write_shard(rows["content_hash"].to_pylist(), to_matrix(rows["embedding"]))
    say(f"embed: {new.height} vectors taken from {uri}")


def check_texts(missing: pl.DataFrame) -> None:
    """Raise InputError if a text that is to be encoded was never logged."""
    unlogged = missing.filter(pl.col("prompt").str.starts_with(UNLOGGED))
    if unlogged.height:
        prompt_id = unlogged["prompt"][0].removeprefix(UNLOGGED)
        raise InputError(
            f"prompt '{prompt_id}': neither text nor vector was logged ({unlogged.height} in all); set "
            "data.embeddings to the log's folder of embeddings, or leave these prompts out"
        )
