"""Embedding tables: vectors by prompt, with the encoder that made them in the file's metadata."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.tables import conform, data_files, write_table
from policies.bundle import EncoderIdentity
from policies.errors import InputError
from policies.schemas import (
    ENCODER_BACKEND_KEY,
    ENCODER_MAX_TOKENS_KEY,
    ENCODER_NAME_KEY,
    ENCODER_WEIGHTS_KEY,
    embeddings_spec,
)

VECTOR_COLUMN = "embedding"
PART = "part-00000.parquet"
ROW_GROUP_ROWS = 131_072
"""Larger tables are streamed piece by piece: 200 MB of 384 float32 entries."""

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

    The matrix is a view of Arrow's buffer, not a copy, when the table is one file, as stages write it.

    Raises:
        InputError: nothing there, a file that cannot be read, or files of two encoders.
    """
    table, identity = read_table_of_vectors(str(path))
    return (
        table["prompt_id"].to_numpy(zero_copy_only=False),
        to_matrix(table[VECTOR_COLUMN]),
        identity,
    )


def read_identity(path: str | Path) -> EncoderIdentity:
    """Return the encoder of an embeddings table without reading its vectors.

    Raises:
        InputError: nothing there, or a file that cannot be read.
    """
    fs, files = data_files(str(path))
    try:
        with fs.open(files[0], "rb") as stream:
            return identity_of(pq.read_schema(stream), files[0])
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{files[0]}: cannot be read (truncated or of another type?): {error}") from None


def read_table_of_vectors(uri: str) -> tuple[pa.Table, EncoderIdentity]:
    """Read an embeddings table as it is, with its encoder; see :func:`read_embeddings`."""
    fs, files = data_files(uri)
    tables: list[pa.Table] = []
    identities: list[EncoderIdentity] = []
    for path in files:
        try:
            with fs.open(path, "rb") as stream:
                table = pq.read_table(stream)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: cannot be read (truncated or of another type?): {error}") from None
        identity = identity_of(table.schema, path)
        if identities and not same_vectors(identities[0], identity):
            raise InputError(
                f"{path}: vectors of {identity}, but {files[0]} holds those of {identities[0]}; "
                "allowed: one encoder a table"
            )
        half = table.schema.field(VECTOR_COLUMN).type.value_type == pa.float16()
        tables.append(conform(embeddings_spec(identity.dimension, half=half), table, path))
        identities.append(identity)
    return pa.concat_tables(tables), identities[0]


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
