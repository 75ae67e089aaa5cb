"""Reading and writing the tables of :mod:`policies.schemas`, checked at every edge.

A path is a file, a directory of files, or any fsspec URI (``s3://``, ``gs://``, ``file://``). Rows are numbered
from 1, as an editor or a data frame with a header line shows them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import fsspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from policies.errors import InputError
from policies.leftovers import remove_leftovers, temporary_beside
from policies.schemas import TableSpec

SUFFIXES = (".parquet", ".csv", ".jsonl")
FILE_COLUMN = "__file"


def data_files(uri: str) -> tuple[fsspec.AbstractFileSystem, list[str]]:
    """Return the file system and the sorted data files of a file or directory URI.

    Raises:
        InputError: nothing is there, or no file has a supported suffix.
    """
    fs, path = fsspec.core.url_to_fs(uri)
    if not fs.exists(path):
        raise InputError(f"{uri}: no such file or directory")
    if fs.isdir(path):
        files = sorted(p for p in fs.find(path) if p.endswith(SUFFIXES))
        if not files:
            raise InputError(f"{uri}: the directory holds no {', '.join(SUFFIXES)} file")
        return fs, files
    if not path.endswith(SUFFIXES):
        raise InputError(f"{uri}: unknown file type; allowed: {', '.join(SUFFIXES)}")
    return fs, [path]


def unreadable(path: str, error: Exception) -> InputError:
    """Return what to tell about a file that is not what its name says."""
    return InputError(f"{path}: cannot be read (truncated or of another type?): {error}")


def read_any(fs: fsspec.AbstractFileSystem, path: str) -> pa.Table:
    """Read one Parquet, CSV or JSONL file as it is, without checks.

    Raises:
        InputError: the file is truncated or not of the type that its name says.
    """
    try:
        if path.endswith(".parquet"):
            if isinstance(fs, LocalFileSystem):
                return pq.read_table(path, memory_map=True, partitioning=None)
            with fs.open(path, "rb") as stream:
                return pq.read_table(stream)
        raw = fs.cat_file(path)
        if path.endswith(".csv"):
            frame = pl.read_csv(io.BytesIO(raw), infer_schema_length=10_000)
        else:
            frame = pl.read_ndjson(io.BytesIO(raw), infer_schema_length=10_000)
        return frame.to_arrow()
    except (pa.ArrowException, pl.exceptions.PolarsError, EOFError) as error:
        raise unreadable(path, error) from None


def read_table(
    spec: TableSpec,
    uri: str,
    *,
    columns: Mapping[str, str] | None = None,
    models: Collection[str] | None = None,
    keep: Callable[[pl.DataFrame], npt.NDArray[np.bool_]] | None = None,
) -> pa.Table:
    """Read and check a table, returning exactly the columns of ``spec.schema`` in order.

    Args:
        spec: the contract.
        uri: file, directory or URI.
        columns: input column for a column of the contract, where the names differ (``cost_usd: price_paid``).
        models: allowed values of the ``model`` column; None allows any.
        keep: tells of all files' rows together which to keep, shape (n,), before keys are checked.

    Raises:
        InputError: file, row and column of the first offence, the value and what is allowed.
    """
    fs, files = data_files(uri)
    parts = [conform(spec, read_any(fs, path), path, columns=columns, models=models) for path in files]
    table = pa.concat_tables(parts)
    if table.num_rows == 0:
        raise InputError(f"{uri}: the {spec.name} table is empty")
    rows = [part.num_rows for part in parts]
    if keep is not None:
        mask = keep(to_polars(table))
        rows = [int(part.sum()) for part in np.split(mask, np.cumsum(rows)[:-1])]
        table = table.filter(pa.array(mask))
    _check_unique(spec, table, files, rows)
    return table


def conform(
    spec: TableSpec,
    table: pa.Table,
    source: str,
    *,
    columns: Mapping[str, str] | None = None,
    models: Collection[str] | None = None,
) -> pa.Table:
    """Return ``table`` with the columns and types of ``spec``, after checking types, nulls, ranges and models.

    Columns that the contract does not know are dropped. ``source`` names the file in messages. Uniqueness of
    the key is checked by :func:`read_table`, over all files together.
    """
    chosen = {
        name: _input_column(spec, name, table.column_names, source, columns or {})
        for name in spec.schema.names
    }
    arrays = []
    for column in spec.schema:
        given = chosen[column.name]
        if given is None:
            arrays.append(pa.chunked_array([pa.nulls(table.num_rows, column.type)]))
            continue
        array = _cast(table[given], column.type, source, given)
        if not column.nullable and array.null_count:
            row = pc.index(pc.is_null(array), True).as_py() + 1
            raise InputError(f"{source}: row {row}, column '{given}': null; a value is required")
        _check_range(spec, column.name, given, array, source)
        arrays.append(array)
    if models is not None and "model" in spec.schema.names:
        _check_models(
            arrays[spec.schema.get_field_index("model")], models, source, chosen["model"] or "model"
        )
    return pa.table(arrays, schema=spec.schema)


def _input_column(
    spec: TableSpec, name: str, given: list[str], source: str, mapping: Mapping[str, str]
) -> str | None:
    if name in mapping:
        if mapping[name] not in given:
            raise InputError(
                f"{source}: column '{mapping[name]}' (mapped to '{name}') is missing; it has: {', '.join(given)}"
            )
        return mapping[name]
    candidates = [name, *(alias for alias, target in spec.aliases.items() if target == name)]
    for candidate in candidates:
        if candidate in given:
            return candidate
    if name in spec.optional:
        return None
    raise InputError(
        f"{source}: column '{name}' of the {spec.name} table is missing; it has: {', '.join(given)}"
    )


def _cast(array: pa.ChunkedArray, kind: pa.DataType, source: str, column: str) -> pa.ChunkedArray:
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if array.type == kind:
        return array
    number_to_text = (
        pa.types.is_string(kind) and not _is_text(array.type) and not pa.types.is_integer(array.type)
    )
    text_to_number = not pa.types.is_string(kind) and _is_text(array.type) and not pa.types.is_timestamp(kind)
    nested = pa.types.is_nested(kind) != pa.types.is_nested(array.type)
    boolean = pa.types.is_boolean(array.type)
    if (number_to_text or text_to_number or nested or boolean) and not pa.types.is_null(array.type):
        first = next((i for i, v in enumerate(array) if v.is_valid), 0)
        raise InputError(
            f"{source}: row {first + 1}, column '{column}': {array[first].as_py()!r} has type {array.type}; "
            f"allowed: {kind}"
        )
    try:
        return array.cast(kind)
    except pa.ArrowException as error:
        row = next((i for i, v in enumerate(array) if not _castable(v, kind)), 0)
        raise InputError(
            f"{source}: row {row + 1}, column '{column}': {array[row].as_py()!r} is not {kind}: {error}"
        ) from None


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _castable(value: pa.Scalar, kind: pa.DataType) -> bool:
    try:
        value.cast(kind)
    except pa.ArrowException:
        return False
    return True


def _check_range(spec: TableSpec, name: str, given: str, array: pa.ChunkedArray, source: str) -> None:
    if pa.types.is_floating(array.type):
        _fail_where(
            pc.invert(pc.is_finite(array)), array, source, given, "a finite number (null where not observed)"
        )
    allowed = spec.ranges.get(name)
    if allowed is None:
        return
    too_low = pc.less_equal(array, allowed.low) if allowed.low_open else pc.less(array, allowed.low)
    _fail_where(pc.or_(too_low, pc.greater(array, allowed.high)), array, source, given, str(allowed))


def _fail_where(bad: pa.ChunkedArray, array: pa.ChunkedArray, source: str, column: str, allowed: str) -> None:
    row = pc.index(bad, True).as_py()
    if row >= 0:
        raise InputError(
            f"{source}: row {row + 1}, column '{column}': {array[row].as_py()}; allowed: {allowed}"
        )


def _check_models(array: pa.ChunkedArray, models: Collection[str], source: str, column: str) -> None:
    known = pc.is_in(array, value_set=pa.array(sorted(models), pa.string()))
    row = pc.index(known, False).as_py()
    if row >= 0:
        shown = ", ".join(sorted(models)[:12]) + (", ..." if len(models) > 12 else "")
        raise InputError(
            f"{source}: row {row + 1}, column '{column}': model '{array[row].as_py()}' is not in the pool file; "
            f"allowed: {shown}"
        )


def _check_unique(spec: TableSpec, table: pa.Table, files: list[str], rows: list[int]) -> None:
    frame = to_polars(table.select(list(spec.key)))
    if frame.n_unique() == frame.height:
        return
    row = int((~frame.to_struct("key").is_first_distinct()).arg_max() or 0)
    values = ", ".join(f"{name}={value!r}" for name, value in frame.row(row, named=True).items())
    for path, n_rows in zip(files, rows):  # noqa: B007 - the file that holds the row is the answer
        if row < n_rows:
            break
        row -= n_rows
    raise InputError(f"{path}: row {row + 1}: duplicate key ({values}); allowed: one row per {spec.key}")


def write_table(
    table: pa.Table,
    uri: str,
    *,
    row_group_rows: int = 65_536,
    parquet_options: Mapping[str, Any] | None = None,
    many_writers: bool = False,
) -> None:
    """Write one Parquet file so that readers see it whole or not at all.

    Local files are written under a temporary name and renamed; what killed writers of the same file left behind is
    removed then. To an object store the finished bytes are sent at once: a file that is open there is published when
    it is closed, by an error too.

    Args:
        table: what to write.
        uri: the file.
        row_group_rows: rows of a row group at most.
        parquet_options: go to :func:`pyarrow.parquet.write_table`; the default is zstd compression.
        many_writers: whether the folder gets many files from many writers; then it is not searched for leftovers.
    """
    options = {"compression": "zstd", "row_group_size": row_group_rows, **(parquet_options or {})}
    _publish(lambda sink: pq.write_table(table, sink, **options), uri, many_writers=many_writers)


def write_parts(parts: Iterable[pa.Table], schema: pa.Schema, uri: str) -> None:
    """Write one Parquet file like :func:`write_table`, a row group a part, of which one at a time is in memory."""

    def write(sink: IO[bytes]) -> None:
        with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
            for part in parts:
                writer.write_table(part)

    _publish(write, uri)


def _publish(write: Callable[[IO[bytes]], None], uri: str, *, many_writers: bool = False) -> None:
    fs, path = fsspec.core.url_to_fs(uri)
    fs.makedirs(fs._parent(path), exist_ok=True)
    if not isinstance(fs, LocalFileSystem):
        whole = io.BytesIO()
        write(whole)
        fs.pipe_file(path, whole.getvalue())
        return
    target = str(temporary_beside(Path(path)))
    try:
        with fs.open(target, "wb") as stream:
            write(stream)
        fs.mv(target, path)
    except BaseException:
        if fs.exists(target):
            fs.rm(target)
        raise
    if not many_writers:
        remove_leftovers(Path(path).parent, Path(path).name)


def to_polars(table: pa.Table) -> pl.DataFrame:
    """Return the table as a polars frame (strings and numbers are shared, not copied)."""
    frame: Any = pl.from_arrow(table)
    return frame
