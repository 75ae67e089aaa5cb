"""SPROUT (CARROT, arXiv 2502.03261): parquet, one struct column a model, scores and tokens but no prices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.loaders.assemble import Collector
from pipeline.loaders.base import LoadedTables, LoaderOptions
from pipeline.loaders.reading import find_files, number, text_of
from policies.errors import InputError

BATCH_ROWS = 1024
"""Answers are most of the 580 MB of text: they are read in batches and only their lengths are kept."""


def load(path: Path, options: LoaderOptions) -> LoadedTables:
    """Read one parquet file or every one below a folder."""
    files = find_files(path, ("*.parquet",), "SPROUT parquet file")
    by_key = _keys_identify(files)
    collector = Collector(path)
    serial = 0
    for file in files:
        for row, body, models in _rows(file):
            serial += 1
            prompt_id = f"sprout/{body['key'] if by_key else serial}"
            task = body.get("dataset")
            prompt = text_of(body, "prompt", file, row)
            collector.prompt(prompt_id, prompt, None if task is None else str(task), file, row)
            for model in models:
                cell = body[model]
                if cell is None:
                    continue
                answer = cell.get("response")
                collector.outcome(
                    prompt_id,
                    model,
                    score=number(cell["score"], file, row, f"{model}.score"),
                    prompt_tokens=number(
                        cell.get("num_input_tokens"), file, row, f"{model}.num_input_tokens"
                    ),
                    completion_tokens=number(
                        cell.get("num_output_tokens"), file, row, f"{model}.num_output_tokens"
                    ),
                    response=answer if isinstance(answer, str) else None,
                    file=file,
                    row=row,
                )
    return collector.tables(options)


def _open(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file}: not a Parquet file: {error}") from None


def _keys_identify(files: list[Path]) -> bool:
    """Return whether ``key`` is there and unique over all files; else rows are numbered."""
    keys: list[Any] = []
    for file in files:
        parquet = _open(file)
        if "key" not in parquet.schema_arrow.names:
            return False
        keys += parquet.read(columns=["key"])["key"].to_pylist()
    return None not in keys and len(set(map(str, keys))) == len(keys)


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any], list[str]]]:
    parquet = _open(file)
    schema = parquet.schema_arrow
    models = [
        column.name
        for column in schema
        if pa.types.is_struct(column.type) and column.type.get_field_index("score") >= 0
    ]
    if "prompt" not in schema.names or not models:
        raise InputError(
            f"{file}: needs a column 'prompt' and struct columns with a field 'score'; it has: "
            f"{', '.join(schema.names)}"
        )
    wanted = [name for name in ("key", "dataset", "prompt") if name in schema.names]
    row = 0
    try:
        for batch in parquet.iter_batches(BATCH_ROWS, columns=[*wanted, *models]):
            for body in batch.to_pylist():
                row += 1
                yield row, body, models
    except pa.ArrowException as error:
        raise InputError(f"{file}: row {row + 1}: cannot be read: {error}") from None
