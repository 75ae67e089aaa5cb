"""The store that runs share: every text's vector once, in shards that appear whole and are never rewritten.

One folder per encoder (weights, backend, cut, dtype), so that vectors of two encoders cannot meet. A shard is a
Parquet file of ``content_hash, embedding``; its name is the hash of its content hashes. Pages carry checksums:
a damaged shard is noticed, discarded with a warning, and its texts are encoded again.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass

import fsspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.embedding_table import (
    PARQUET_OPTIONS,
    VECTOR_COLUMN,
    identity_metadata,
    identity_of,
    same_vectors,
    to_arrow_vectors,
    to_matrix,
)
from pipeline.tables import write_table
from policies.bundle import EncoderIdentity
from policies.errors import InputError

log = logging.getLogger(__name__)

HASH_COLUMN = "content_hash"
STALE_S = 3600.0
"""Age in seconds at which a temporary file is taken for the leftover of a killed run."""


class DamagedShardError(Exception):
    """A shard could not be read; it has been discarded."""


@dataclass(frozen=True)
class EmbeddingStore:
    """Vectors by content hash, for one encoder.

    Attributes:
        root: folder or URI that holds the stores of all encoders.
        identity: the encoder.
        dtype: ``float32`` or ``float16``.
    """

    root: str
    identity: EncoderIdentity
    dtype: str

    @property
    def folder(self) -> str:
        """Folder or URI of this encoder's shards."""
        who = self.identity
        return (
            f"{self.root.rstrip('/')}/{who.weights_sha256[:16]}-{who.backend}-{who.max_tokens}-{self.dtype}"
        )

    def write_shard(self, hashes: list[str], vectors: npt.NDArray[np.floating]) -> str:
        """Write one shard of vectors, shape (n, d), and return its file name."""
        name = f"{hashlib.sha256(''.join(hashes).encode()).hexdigest()[:24]}.parquet"
        column = to_arrow_vectors(vectors.astype(self.dtype, copy=False))
        schema = pa.schema([(HASH_COLUMN, pa.string()), (VECTOR_COLUMN, column.type)])
        table = pa.table([pa.array(hashes, pa.string()), column], schema=schema)
        table = table.replace_schema_metadata(identity_metadata(self.identity))
        write_table(table, f"{self.folder}/{name}", parquet_options=PARQUET_OPTIONS)
        return name

    def index(self) -> pl.DataFrame:
        """Return ``content_hash, shard, row`` of all that is stored, one row a hash.

        Raises:
            InputError: a shard of another encoder lies in the folder.
        """
        fs, folder = fsspec.core.url_to_fs(self.folder)
        if not fs.exists(folder):
            return _index_frame([], [])
        files = sorted(fs.ls(folder, detail=False))
        _sweep(fs, [f for f in files if f.endswith(".tmp")])
        hashes, shards = [], []
        for path in (f for f in files if f.endswith(".parquet")):
            try:
                schema, column = _read(fs, path, HASH_COLUMN)
            except (pa.ArrowException, OSError) as error:
                _discard(fs, path, error)
                continue
            found = identity_of(schema, path)
            if not same_vectors(found, self.identity):
                raise InputError(f"{path}: vectors of {found} in the store of {self.identity}; move it away")
            shards.append(path)
            hashes.append(column)
        return _index_frame(shards, hashes)

    def gather(self, hashes: list[str], index: pl.DataFrame) -> npt.NDArray[np.floating]:
        """Return the vectors of ``hashes``, shape (n, d), in their order; every hash must be in ``index``.

        Raises:
            DamagedShardError: a shard could not be read; make a new index and encode what is missing.
        """
        fs, _ = fsspec.core.url_to_fs(self.folder)
        wanted = pl.DataFrame({HASH_COLUMN: hashes}, schema={HASH_COLUMN: pl.String}).with_row_index("at")
        placed = wanted.join(index, on=HASH_COLUMN, how="inner")
        vectors = np.empty((len(hashes), self.identity.dimension), dtype=self.dtype)
        damaged = []
        for (shard,), rows in placed.group_by("shard"):
            try:
                found = to_matrix(_read(fs, str(shard), VECTOR_COLUMN)[1])
            except (pa.ArrowException, OSError) as error:
                _discard(fs, str(shard), error)
                damaged.append(str(shard))
                continue
            vectors[rows["at"].to_numpy()] = found[rows["row"].to_numpy()]
        if damaged:
            raise DamagedShardError(", ".join(damaged))
        return vectors


def _index_frame(shards: list[str], hashes: list[pa.ChunkedArray]) -> pl.DataFrame:
    frames = [
        pl.DataFrame({HASH_COLUMN: pl.Series(pl.from_arrow(column), dtype=pl.String)})
        .with_row_index("row")
        .with_columns(shard=pl.lit(shard))
        for shard, column in zip(shards, hashes)
    ]
    empty = pl.DataFrame(schema={"row": pl.UInt32, HASH_COLUMN: pl.String, "shard": pl.String})
    return pl.concat([empty, *frames]).unique(HASH_COLUMN, keep="first", maintain_order=True)


def _read(fs: fsspec.AbstractFileSystem, path: str, column: str) -> tuple[pa.Schema, pa.ChunkedArray]:
    with fs.open(path, "rb") as stream, pq.ParquetFile(stream, page_checksum_verification=True) as file:
        return file.schema_arrow, file.read([column]).column(column)


def _discard(fs: fsspec.AbstractFileSystem, path: str, error: Exception) -> None:
    log.warning("%s: damaged shard (%s); its texts are encoded again", path, str(error).splitlines()[0])
    if fs.exists(path):
        fs.rm(path)


def _sweep(fs: fsspec.AbstractFileSystem, files: list[str]) -> None:
    for path in files:
        if time.time() - float(fs.info(path).get("mtime", time.time())) > STALE_S:
            fs.rm(path)
