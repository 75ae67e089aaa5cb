"""Embedding tables: vectors by prompt, with the encoder that made them in the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from pipeline.tables import conform, data_files, to_polars, unreadable, write_table
from policies.bundle import EncoderIdentity
from policies.errors import InputError
from policies.schemas import (
    ENCODER_BACKEND_KEY,
    ENCODER_MAX_TOKENS_KEY,
    ENCODER_NAME_KEY,
    ENCODER_WEIGHTS_KEY,
    TableSpec,
    embeddings_spec,
)

VECTOR_COLUMN = "embedding"
PART = "part-00000.parquet"
MANIFEST = "_manifest.json"
"""Beside the files of a table that ``embed`` wrote; readers of Parquet folders skip names with an underscore."""

ROW_GROUP_ROWS = 131_072
"""Larger tables are streamed piece by piece: 200 MB of 384 float32 entries."""

READERS = 2
"""Files that are read side by side."""

BATCH_ROWS = 4096
"""Rows decoded at once: small enough that the system need not find new memory for each."""

PARQUET_OPTIONS: dict[str, Any] = {
    # Floats of unit vectors neither repeat nor compress: dictionary and codec only cost time.
    "compression": "none",
    "use_dictionary": False,
    "write_page_checksum": True,
}


@dataclass(frozen=True)
class EmbeddingTable:
    """Vectors of prompts, row by row.

    Attributes:
        prompt_ids: shape (n,), strings.
        content_hashes: shape (n,), hashes of the texts.
        vectors: shape (n, d), float32 or float16.
        identity: the encoder that made them.
    """

    prompt_ids: npt.NDArray[np.object_]
    content_hashes: npt.NDArray[np.object_]
    vectors: npt.NDArray[np.floating]
    identity: EncoderIdentity


def identity_metadata(identity: EncoderIdentity) -> dict[bytes, bytes]:
    """Return the file metadata that names an encoder."""
    return {
        ENCODER_NAME_KEY: identity.name.encode(),
        ENCODER_WEIGHTS_KEY: identity.weights_sha256.encode(),
        ENCODER_BACKEND_KEY: identity.backend.encode(),
        ENCODER_MAX_TOKENS_KEY: str(identity.max_tokens).encode(),
    }


def identity_of(schema: pa.Schema, source: str) -> EncoderIdentity:
    """Return the encoder named in a file's metadata.

    Raises:
        InputError: the metadata names none, or the file has no column of vectors.
    """
    metadata = schema.metadata or {}
    keys = (ENCODER_NAME_KEY, ENCODER_WEIGHTS_KEY, ENCODER_BACKEND_KEY, ENCODER_MAX_TOKENS_KEY)
    for key in keys:
        if key not in metadata:
            raise InputError(f"{source}: not an embeddings table (no {key.decode()} in its metadata)")
    at = schema.get_field_index(VECTOR_COLUMN)
    if at < 0 or not pa.types.is_fixed_size_list(schema.field(at).type):
        raise InputError(f"{source}: column '{VECTOR_COLUMN}' of type fixed_size_list is missing")
    name, weights, backend, max_tokens = (metadata[key].decode() for key in keys)
    return EncoderIdentity(name, weights, backend, schema.field(at).type.list_size, int(max_tokens))


def same_vectors(a: EncoderIdentity, b: EncoderIdentity) -> bool:
    """Return whether two encoders give the same vectors: all but the name, which may be another path."""
    return (a.weights_sha256, a.backend, a.dimension, a.max_tokens) == (
        b.weights_sha256,
        b.backend,
        b.dimension,
        b.max_tokens,
    )


def to_arrow_vectors(vectors: npt.NDArray[Any]) -> pa.FixedSizeListArray:
    """Return a matrix, shape (n, d), as an Arrow column that shares its memory."""
    flat = np.ascontiguousarray(vectors).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors.shape[1])


def to_matrix(column: pa.ChunkedArray | pa.FixedSizeListArray) -> npt.NDArray[Any]:
    """Return an Arrow column of vectors as a matrix, shape (n, d); a single chunk is not copied."""
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    values = column.flatten().to_numpy(zero_copy_only=True)
    return values.reshape(len(column), column.type.list_size)


def read_embeddings(
    path: str | Path,
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.floating], EncoderIdentity]:
    """Read an embeddings table: prompt ids (n,), vectors (n, d) and the encoder.

    The matrix of a table of one file and one row group is a view of Arrow's buffer; those of several are copied
    together into one.

    Raises:
        InputError: nothing there, a file that cannot be read, files of two encoders, or files other than those
            that the table's manifest names.
    """
    table, identity = read_table_of_vectors(str(path), columns=("prompt_id", VECTOR_COLUMN))
    return (
        table["prompt_id"].to_numpy(zero_copy_only=False),
        to_matrix(table[VECTOR_COLUMN]),
        identity,
    )


def vectors_of(
    path: str | Path, prompt_ids: pl.Series
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Read the vectors of prompts, files side by side: (n, d) float32, and which were found, (n,).

    Vectors go a batch at a time to their rows of the result, so little memory is needed beside it. Rows of prompts
    that were not found hold no meaning.

    Raises:
        InputError: see :func:`read_embeddings`.
    """
    fs, files = data_files(str(path))
    identity = read_identity(path)
    wanted = pl.DataFrame({"prompt_id": prompt_ids}).with_row_index("at")
    vectors = np.empty((len(prompt_ids), identity.dimension), dtype=np.float32)
    found = np.zeros(len(prompt_ids), dtype=bool)

    def place(name: str) -> None:
        with _opened(fs, name) as file:
            ids = to_polars(file.read(["prompt_id"], use_threads=False)).with_row_index("row")
            both = ids.join(wanted, on="prompt_id", how="inner").sort("row")
            row, at = both["row"].to_numpy(), both["at"].to_numpy()
            first = 0
            for batch in file.iter_batches(BATCH_ROWS, columns=[VECTOR_COLUMN], use_threads=False):
                part = to_matrix(batch.column(0))
                here = slice(*np.searchsorted(row, [first, first + len(part)]))
                _copy_rows(part, row[here] - first, vectors, at[here])
                first += len(part)
            found[at] = True

    # Arrow decodes a column of a file on one core, and lets go of Python's lock meanwhile.
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(place, files))
    return vectors, found


def _copy_rows(
    source: npt.NDArray[np.floating],
    rows: npt.NDArray[np.uint32],
    target: npt.NDArray[np.float32],
    at: npt.NDArray[np.uint32],
) -> None:
    """Copy ``source[rows]`` to ``target[at]``, without a copy in between where both run on."""
    if len(rows) > 1 and (np.diff(rows) == 1).all() and (np.diff(at) == 1).all():
        target[at[0] : at[0] + len(rows)] = source[rows[0] : rows[0] + len(rows)]
    else:
        target[at] = source[rows]


def read_identity(path: str | Path) -> EncoderIdentity:
    """Return the encoder of an embeddings table from the ends of its files, without reading its vectors.

    Raises:
        InputError: see :func:`read_embeddings`.
    """
    fs, files = data_files(str(path))
    rows = {}
    first: EncoderIdentity | None = None
    for name in files:
        with _opened(fs, name) as file:
            first = _one_encoder(first, identity_of(file.schema_arrow, name), name, files[0])
            rows[name] = file.metadata.num_rows
    _check_manifest(fs, str(path), rows)
    assert first is not None, "a table has a file"
    return first


def read_table_of_vectors(uri: str, columns: Sequence[str] | None = None) -> tuple[pa.Table, EncoderIdentity]:
    """Read an embeddings table, or some of its columns, with its encoder; see :func:`read_embeddings`."""
    identities, tables = zip(*_tables(uri, columns))
    return pa.concat_tables(tables), identities[0]


def _tables(uri: str, columns: Sequence[str] | None) -> Iterator[tuple[EncoderIdentity, pa.Table]]:
    """Yield encoder and rows of one file after the other; after the last, the manifest is compared."""
    fs, files = data_files(uri)
    rows = {}
    first: EncoderIdentity | None = None
    for path in files:
        with _opened(fs, path) as file:
            table = file.read(None if columns is None else list(columns))
        first = _one_encoder(first, identity_of(table.schema, path), path, files[0])
        half = table.schema.field(VECTOR_COLUMN).type.value_type == pa.float16()
        spec = embeddings_spec(first.dimension, half=half)
        chosen = pa.schema([spec.schema.field(name) for name in columns or spec.schema.names])
        rows[path] = table.num_rows
        yield first, conform(TableSpec(spec.name, chosen, key=()), table, path)
    _check_manifest(fs, uri, rows)


@contextmanager
def _opened(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, a local one mapped; what cannot be read is an InputError."""
    local = isinstance(fs, LocalFileSystem)
    try:
        with (
            nullcontext(path) if local else fs.open(path, "rb") as source,
            pq.ParquetFile(source, memory_map=local) as file,
        ):
            yield file
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from None


def vector_batches(
    fs: fsspec.AbstractFileSystem, files: Sequence[str], rows: int, columns: Sequence[str]
) -> Iterator[tuple[str, EncoderIdentity, pa.Table]]:
    """Yield path, encoder and some columns of at most ``rows`` rows of a table's files at a time.

    Raises:
        InputError: as :func:`read_embeddings` does.
    """
    first: EncoderIdentity | None = None
    for path in files:
        with _opened(fs, path) as file:
            first = _one_encoder(first, identity_of(file.schema_arrow, path), path, files[0])
            for batch in file.iter_batches(rows, columns=list(columns)):
                yield path, first, pa.Table.from_batches([batch])


def _one_encoder(
    first: EncoderIdentity | None, found: EncoderIdentity, path: str, first_path: str
) -> EncoderIdentity:
    if first is not None and not same_vectors(first, found):
        raise InputError(
            f"{path}: vectors of {found}, but {first_path} holds those of {first}; "
            "allowed: one encoder a table"
        )
    return first or found


def _check_manifest(fs: fsspec.AbstractFileSystem, uri: str, found: dict[str, int]) -> None:
    """Compare the files with the manifest beside them, where there is one: names and rows, not hashes."""
    path = f"{fsspec.core.url_to_fs(uri)[1].rstrip('/')}/{MANIFEST}"
    if not fs.exists(path):
        return
    named = {file["name"]: file["rows"] for file in json.loads(fs.cat_file(path))["files"]}
    there = {path.rsplit("/", 1)[-1]: rows for path, rows in found.items()}
    if named != there:
        name = min(set(named.items()) ^ set(there.items()))[0]
        raise InputError(
            f"{uri}: {name} has {there.get(name, 'no')} rows, but {MANIFEST} tells of {named.get(name, 'none')}; "
            "allowed: the files that `embed` wrote"
        )


def write_embeddings(table: EmbeddingTable, folder: Path) -> None:
    """Write the table as one Parquet file into ``folder``, whole or not at all."""
    half = table.vectors.dtype == np.float16
    schema = embeddings_spec(table.identity.dimension, half=half).schema
    columns = [
        pa.array(table.prompt_ids, pa.string()),
        pa.array(table.content_hashes, pa.string()),
        to_arrow_vectors(table.vectors),
    ]
    arrow = pa.table(columns, schema=schema.with_metadata(identity_metadata(table.identity)))
    # Arrow reads each row group into a chunk of its own; one chunk is one matrix without a copy.
    write_table(
        arrow,
        str(folder / PART),
        row_group_rows=ROW_GROUP_ROWS,
        parquet_options=PARQUET_OPTIONS,
    )
