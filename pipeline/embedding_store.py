"""The store that runs share: every text's vector once, in shards that appear whole and are never rewritten.

One folder per encoder (weights, backend, cut, dtype), so that vectors of two encoders cannot meet. A shard is a
Parquet file of ``content_hash, embedding``; its name is the hash of its content hashes. Pages carry checksums:
a damaged shard is noticed, discarded with a warning, and its texts are encoded again.
"""

from __future__ import annotations

import hashlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import fsspec
import numpy as np
import numpy.typing as npt
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
from pipeline.text_digests import KeyIndex, Keys, keys_of_hashes
from policies.bundle import EncoderIdentity
from policies.errors import InputError

log = logging.getLogger(__name__)

HASH_COLUMN = "content_hash"
STALE_S = 3600.0
"""Age in seconds at which a temporary file is taken for the leftover of a killed run."""

INDEX_READERS = 16
"""Shards whose hashes are read side by side: an object store answers many questions in the time of one."""
VECTOR_READERS = 4
"""Shards whose vectors are: up to 50 MB each are in memory at once."""


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
        name = _shard_name(hashes)
        column = to_arrow_vectors(vectors.astype(self.dtype, copy=False))
        schema = pa.schema([(HASH_COLUMN, pa.string()), (VECTOR_COLUMN, column.type)])
        table = pa.table([pa.array(hashes, pa.string()), column], schema=schema)
        table = table.replace_schema_metadata(identity_metadata(self.identity))
        write_table(table, f"{self.folder}/{name}", parquet_options=PARQUET_OPTIONS, many_writers=True)
        return name

    def holds(self, hashes: list[str]) -> bool:
        """Return whether the shard of exactly these texts is there."""
        fs, folder = fsspec.core.url_to_fs(self.folder)
        return bool(fs.exists(f"{folder}/{_shard_name(hashes)}"))

    def index(self) -> StoreIndex:
        """Return where each stored text is: about 30 bytes a text stay in memory.

        Raises:
            InputError: a shard of another encoder lies in the folder.
            OSError: the file system does not answer.
        """
        fs, folder = fsspec.core.url_to_fs(self.folder)
        # Object stores' file systems remember listings, and actors elsewhere have written since.
        fs.invalidate_cache(folder)
        if not fs.exists(folder):
            return StoreIndex.of([], [])
        files = sorted(fs.ls(folder, detail=False))
        _sweep(fs, [f for f in files if f.endswith(".tmp")])

        def keys_in(path: str) -> Keys | None:
            try:
                schema, column = _read(fs, path, HASH_COLUMN)
            except (pa.ArrowException, OSError) as error:
                _discard_damaged(fs, path, error)
                return None
            found = identity_of(schema, path)
            if not same_vectors(found, self.identity):
                raise InputError(f"{path}: vectors of {found} in the store of {self.identity}; move it away")
            return keys_of_hashes(column.to_pylist(), path)

        shards = [path for path in files if path.endswith(".parquet")]
        with ThreadPoolExecutor(INDEX_READERS) as pool:
            keys = dict(zip(shards, pool.map(keys_in, shards)))
        whole = {path: found for path, found in keys.items() if found is not None}
        return StoreIndex.of(list(whole), list(whole.values()))

    def gather(self, places: Places) -> npt.NDArray[np.floating]:
        """Return the vectors at ``places``, shape (n, d), in their order; each shard is read once.

        Raises:
            DamagedShardError: a shard could not be read; make a new index and encode what is missing.
            OSError: the file system does not answer.
        """
        fs, _ = fsspec.core.url_to_fs(self.folder)
        vectors = np.empty((len(places.shard), self.identity.dimension), dtype=self.dtype)
        order = np.argsort(places.shard, kind="stable")
        numbers, starts = np.unique(places.shard[order], return_index=True)

        def place(number: int, at: npt.NDArray[np.int64]) -> str | None:
            path = places.files[number]
            try:
                found = to_matrix(_read(fs, path, VECTOR_COLUMN)[1])
            except (pa.ArrowException, OSError) as error:
                _discard_damaged(fs, path, error)
                return path
            vectors[at] = found[places.row[at]]
            return None

        with ThreadPoolExecutor(VECTOR_READERS) as pool:
            damaged = list(filter(None, pool.map(place, numbers.tolist(), np.split(order, starts[1:]))))
        if damaged:
            raise DamagedShardError(", ".join(damaged))
        return vectors


@dataclass(frozen=True)
class Places:
    """Where vectors lie in a store.

    Attributes:
        files: paths by shard number.
        shard: shape (n,), number of each vector's shard.
        row: shape (n,), its row there.
    """

    files: dict[int, str]
    shard: npt.NDArray[np.uint32]
    row: npt.NDArray[np.uint32]

    def part(self, start: int, stop: int) -> Places:
        """Return the places from ``start`` to before ``stop``, with no more paths than they need."""
        shard = self.shard[start:stop]
        return Places(
            {int(number): self.files[int(number)] for number in np.unique(shard)},
            shard,
            self.row[start:stop],
        )


@dataclass(frozen=True)
class StoreIndex:
    """What a store holds.

    Attributes:
        files: shape (n_shards,), paths.
        starts: shape (n_shards + 1,), of each shard's texts, counted over all shards.
        texts: keys of the texts; its rows count over all shards.
    """

    files: list[str]
    starts: npt.NDArray[np.int64]
    texts: KeyIndex

    @classmethod
    def of(cls, files: list[str], keys: list[Keys]) -> StoreIndex:
        """Build the index of shards, given each one's keys; of a text in two shards the first counts."""
        starts = np.cumsum([0, *map(len, keys)])
        return cls(files, starts, KeyIndex.of(np.concatenate([np.empty((0, 2), np.uint64), *keys])))

    def __len__(self) -> int:
        return len(self.texts.keys)

    def lacks(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Return which keys are not there, shape (n,)."""
        return self.texts.find(keys) < 0

    def places(self, keys: Keys) -> Places:
        """Return where the vectors of ``keys`` are; every key must be there."""
        at = self.texts.find(keys)
        shard = np.searchsorted(self.starts, at, side="right") - 1
        row = at - self.starts[shard]
        return Places(dict(enumerate(self.files)), shard.astype(np.uint32), row.astype(np.uint32))


def _shard_name(hashes: list[str]) -> str:
    return f"{hashlib.sha256(''.join(hashes).encode()).hexdigest()[:24]}.parquet"


def _read(fs: fsspec.AbstractFileSystem, path: str, column: str) -> tuple[pa.Schema, pa.ChunkedArray]:
    with fs.open(path, "rb") as stream, pq.ParquetFile(stream, page_checksum_verification=True) as file:
        return file.schema_arrow, file.read([column], use_threads=False).column(column)


def _discard_damaged(fs: fsspec.AbstractFileSystem, path: str, error: pa.ArrowException | OSError) -> None:
    """Remove a shard whose content cannot be read; a file system that fails for now is no reason to.

    Arrow's complaints of content are its own exceptions or plain OSErrors without a number. A file that is gone was
    discarded by another run.
    """
    of_content = isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None)
    if not of_content and not isinstance(error, FileNotFoundError):
        raise error
    log.warning("%s: damaged shard (%s); its texts are encoded again", path, str(error).splitlines()[0])
    with suppress(FileNotFoundError):
        fs.rm(path)


def _sweep(fs: fsspec.AbstractFileSystem, files: list[str]) -> None:
    for path in files:
        with suppress(FileNotFoundError):  # its writer has just finished it, or another run swept it
            if time.time() - float(fs.info(path).get("mtime", time.time())) > STALE_S:
                fs.rm(path)
