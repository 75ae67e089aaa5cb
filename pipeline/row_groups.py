"""The row groups of a table's Parquet files: the pieces in which large tables are streamed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.tables import unreadable


@dataclass(frozen=True)
class RowGroup:
    """One row group.

    Attributes:
        file_number: of its file, within the table.
        path: of its file.
        number: within the file.
        start: first row, counted over all files.
        rows: how many it holds.
        first_in_file: first row, counted within the file.
    """

    file_number: int
    path: str
    number: int
    start: int
    rows: int
    first_in_file: int

    @property
    def source(self) -> str:
        """What messages call it; rows count from 1."""
        return f"{self.path}, rows {self.first_in_file + 1} to {self.first_in_file + self.rows}"


def row_groups(fs: fsspec.AbstractFileSystem, files: Sequence[str]) -> list[RowGroup]:
    """Return the row groups of Parquet files, in order, from the ends of the files.

    Raises:
        InputError: a file cannot be read.
    """
    groups: list[RowGroup] = []
    start = 0
    for file_number, path in enumerate(files):
        try:
            with fs.open(path, "rb") as stream:
                metadata = pq.read_metadata(stream)
        except (pa.ArrowException, OSError) as error:
            raise unreadable(path, error) from None
        first = 0
        for number in range(metadata.num_row_groups):
            rows = metadata.row_group(number).num_rows
            groups.append(RowGroup(file_number, path, number, start, rows, first))
            start += rows
            first += rows
    return groups
