"""A prompts table as a stream: a Parquet row group at a time, on the driver or, by row range, on any worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.row_groups import RowGroup, row_groups
from pipeline.tables import conform, data_files, unreadable
from policies.errors import InputError
from policies.schemas import PROMPTS

COLUMNS = ("prompt_id", "prompt")


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
        for path in files:
            if not path.endswith(".parquet"):
                raise InputError(f"{path}: cannot be streamed; allowed: Parquet, as `ingest` writes it")
        groups = row_groups(fs, files)
        if not any(group.rows for group in groups):
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
        return conform(PROMPTS, table, group.source).select(list(COLUMNS))

    def read(self, start: int, stop: int) -> pa.Table:
        """Return ``prompt_id, prompt`` of the rows from ``start`` to before ``stop``, counted over all files."""
        parts = []
        for group in self.groups:
            first, last = max(start, group.start), min(stop, group.start + group.rows)
            if first < last:
                parts.append(self.read_group(group).slice(first - group.start, last - first))
        return pa.concat_tables(parts)
