"""A prompts table as a stream: a Parquet row group at a time, on the driver or, by row range, on any worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.tables import conform, data_files, unreadable
from policies.errors import InputError
from policies.schemas import PROMPTS

COLUMNS = ("prompt_id", "prompt")


@dataclass(frozen=True)
class RowGroup:
    """One row group.

    Attributes:
        path: of its file.
        number: within the file.
        start: first row, counted over all files.
        rows: how many it holds.
        first_in_file: first row, counted within the file.
    """

    path: str
    number: int
    start: int
    rows: int
    first_in_file: int


@dataclass(frozen=True)
class PromptStream:
    """The prompts table that ``ingest`` wrote, which checked its keys: ids are not compared again.

    Attributes:
        uri: file or folder.
        groups: all row groups, in table order.
    """

    uri: str
    groups: tuple[RowGroup, ...]

    @classmethod
    def of(cls, uri: str) -> Self:
        """Look up the row groups of Parquet files.

        Raises:
            InputError: nothing there, another file type, a file that cannot be read, or no row.
        """
        fs, files = data_files(uri)
        groups: list[RowGroup] = []
        start = 0
        for path in files:
            if not path.endswith(".parquet"):
                raise InputError(f"{path}: cannot be streamed; allowed: Parquet, as `ingest` writes it")
            first = 0
            for number, rows in enumerate(_group_sizes(fs, path)):
                groups.append(RowGroup(path, number, start, rows, first))
                start += rows
                first += rows
        if start == 0:
            raise InputError(f"{uri}: the prompts table is empty")
        return cls(uri, tuple(groups))

    @property
    def rows(self) -> int:
        """Number of prompts."""
        return self.groups[-1].start + self.groups[-1].rows

    def tables(self) -> Iterator[pa.Table]:
        """Yield ``prompt_id, prompt`` of one row group after the other."""
        for group in self.groups:
            yield self.read_group(group)

    def read_group(self, group: RowGroup) -> pa.Table:
        """Return ``prompt_id, prompt`` of a row group, checked against the contract."""
        fs, _ = fsspec.core.url_to_fs(self.uri)
        try:
            with fs.open(group.path, "rb") as stream, pq.ParquetFile(stream) as file:
                table = file.read_row_group(group.number, columns=list(COLUMNS))
        except (pa.ArrowException, OSError) as error:
            raise unreadable(group.path, error) from None
        last = group.first_in_file + group.rows
        return conform(PROMPTS, table, f"{group.path}, rows {group.first_in_file + 1} to {last}").select(
            list(COLUMNS)
        )

    def read(self, start: int, stop: int) -> pa.Table:
        """Return ``prompt_id, prompt`` of the rows from ``start`` to before ``stop``, counted over all files."""
        parts = []
        for group in self.groups:
            first, last = max(start, group.start), min(stop, group.start + group.rows)
            if first < last:
                parts.append(self.read_group(group).slice(first - group.start, last - first))
        return pa.concat_tables(parts)


def _group_sizes(fs: fsspec.AbstractFileSystem, path: str) -> list[int]:
    try:
        with fs.open(path, "rb") as stream:
            metadata = pq.read_metadata(stream)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from None
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
