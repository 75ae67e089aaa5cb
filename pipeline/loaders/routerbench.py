"""RouterBench (arXiv 2403.12031): 36,497 prompts, 11 models, as pickle, csv or parquet, wide or long.

Wide: one row a prompt, ``<model>``, ``<model>|model_response``, ``<model>|total_cost``. Long
(``routerbench_raw``): one row a prompt and model.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.loaders.assemble import Collector
from pipeline.loaders.base import LoadedTables, LoaderOptions
from pipeline.loaders.reading import find_files, need_columns, numbers, read_csv_text, texts
from pipeline.loaders.unpickle import read_pickled_frame
from policies.errors import InputError

COST_SUFFIX = "|total_cost"
RESPONSE_SUFFIX = "|model_response"
DEFAULT_STEM = "routerbench_0shot"
"""Read when a folder holds several files: 0-shot and 5-shot share their sample ids."""

Columns = Mapping[str, Sequence[Any]]


def load(path: Path, options: LoaderOptions) -> LoadedTables:
    """Read one RouterBench file (or the 0-shot file of a folder)."""
    file = _choose(find_files(path, ("*.pkl", "*.pickle", "*.csv", "*.parquet"), "RouterBench file"), path)
    columns = _columns(file)
    collector = Collector(path)
    if "model_name" in columns:
        _collect_long(columns, file, collector)
    else:
        _collect_wide(columns, file, collector)
    return collector.tables(options)


def prompt_text(cell: str) -> str:
    """Return the prompt of a cell: the ``repr`` of a list of turns, joined; any other text as it stands."""
    if not cell.lstrip().startswith("["):
        return cell
    try:
        turns = ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return cell
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
        return cell
    return "\n\n".join(turns)


def _choose(files: list[Path], path: Path) -> Path:
    default = [file for file in files if file.stem == DEFAULT_STEM]
    if len(files) == 1 or default:
        return (default or files)[0]
    names = ", ".join(file.name for file in files)
    raise InputError(f"{path}: several files ({names}) and no {DEFAULT_STEM}; give data.path of one file")


def _columns(file: Path) -> Columns:
    if file.suffix in (".pkl", ".pickle"):
        frame = read_pickled_frame(file)
        return {str(name): frame[name].tolist() for name in frame.columns}
    if file.suffix == ".csv":
        return read_csv_text(file).to_dict(as_series=False)
    if file.suffix == ".parquet":
        try:
            return pl.read_parquet(file).to_dict(as_series=False)
        except pl.exceptions.PolarsError as error:
            raise InputError(f"{file}: not a Parquet table: {error}") from None
    raise InputError(f"{file}: unknown file type; allowed: .pkl, .csv, .parquet")


def _prompts(columns: Columns, file: Path, collector: Collector) -> list[str]:
    need_columns(columns, ("sample_id", "prompt", "eval_name"), file)
    ids, tasks = (texts(columns[name], file, name) for name in ("sample_id", "eval_name"))
    cells = ["\n\n".join(c) if isinstance(c, list) else c for c in columns["prompt"]]
    for row, (prompt_id, cell, task) in enumerate(zip(ids, texts(cells, file, "prompt"), tasks), start=1):
        collector.prompt(prompt_id, prompt_text(cell), task, file, row)
    return ids


def _collect_wide(columns: Columns, file: Path, collector: Collector) -> None:
    models = [name.removesuffix(COST_SUFFIX) for name in columns if name.endswith(COST_SUFFIX)]
    if not models:
        raise InputError(
            f"{file}: no column ends in '{COST_SUFFIX}' and none is 'model_name'; it has: "
            f"{', '.join(list(columns)[:30])}"
        )
    need_columns(columns, models, file)
    ids = _prompts(columns, file, collector)
    for model in models:
        scores = numbers(columns[model], file, model)
        costs = numbers(columns[model + COST_SUFFIX], file, model + COST_SUFFIX)
        responses = columns.get(model + RESPONSE_SUFFIX, [None] * len(ids))
        for row, (prompt_id, score, cost, response) in enumerate(zip(ids, scores, costs, responses), start=1):
            collector.outcome(
                prompt_id, model, score=score, cost_usd=cost, response=_answer(response), file=file, row=row
            )


def _collect_long(columns: Columns, file: Path, collector: Collector) -> None:
    need_columns(columns, ("performance", "cost"), file)
    ids = _prompts(columns, file, collector)
    models = texts(columns["model_name"], file, "model_name")
    scores = numbers(columns["performance"], file, "performance")
    costs = numbers(columns["cost"], file, "cost")
    responses = columns.get("model_response", [None] * len(ids))
    for row, (prompt_id, model, score, cost, response) in enumerate(
        zip(ids, models, scores, costs, responses), start=1
    ):
        collector.outcome(
            prompt_id, model, score=score, cost_usd=cost, response=_answer(response), file=file, row=row
        )


def _answer(cell: Any) -> str | None:
    return cell if isinstance(cell, str) else None
