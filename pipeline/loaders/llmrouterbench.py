"""LLMRouterBench: a tree of result files (a folder, or the published .tar.gz as it is), or a csv derivative.

Tree: ``bench/<dataset>/<split>/<model>/<dataset>-<split>-<model>-YYYYMMDD_HHMMSS.json``, one object with
``records``. A cost of exactly 0 means that nobody recorded it (self-hosted models, the csv): it is priced.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.loaders.assemble import Collector
from pipeline.loaders.base import LoadedTables, LoaderOptions
from pipeline.loaders.reading import (
    find_files,
    key_of,
    need_columns,
    number,
    numbers,
    parse_json,
    read_csv_text,
    text_of,
    texts,
)
from pipeline.tables import read_table, to_polars
from policies.errors import InputError
from policies.schemas import PROMPTS

ARCHIVES = (".tar.gz", ".tgz", ".tar")
TIMESTAMP = re.compile(r"-(\d{8}_\d{6})\.json$")
CSV_COLUMNS = ("dataset", "prompt_id", "model", "score")


@dataclass(frozen=True)
class _Record:
    row: int
    index: str
    query: str
    score: float | None
    cost_usd: float | None
    prompt_tokens: float | None
    completion_tokens: float | None
    response: int | None


@dataclass(frozen=True)
class _ResultFile:
    place: str
    timestamp: str
    records: tuple[_Record, ...]


def load(path: Path, options: LoaderOptions) -> LoadedTables:
    """Read a result tree, an archive of one, or the csv derivative (which needs ``options.prompts``)."""
    if path.is_file() and path.suffix == ".csv":
        return _load_csv(path, options)
    latest: dict[tuple[str, str, str], _ResultFile] = {}
    demos = older = 0
    shared: dict[str, str] = {}
    for place, raw in _result_files(path):
        body = parse_json(raw, place)
        if not isinstance(body, dict):
            raise InputError(f"{place}: {type(body).__name__}; allowed: an object with 'records'")
        if body.get("demo"):
            demos += 1
            continue
        key = tuple(text_of(body, name, place, 1) for name in ("dataset_name", "split", "model_name"))
        stamp = TIMESTAMP.search(place)
        timestamp = stamp.group(1) if stamp else ""
        known = latest.get(key)  # type: ignore[arg-type]
        if known is not None:
            older += 1
            if timestamp <= known.timestamp:
                continue
        latest[key] = _ResultFile(place, timestamp, _records(body, place, shared))  # type: ignore[index]
    collector = Collector(path)
    if demos:
        collector.notes.append(f"{demos} demo files skipped")
    if older:
        collector.notes.append(f"{older} superseded result files skipped, the latest timestamp kept")
    for (dataset, split, model), file in latest.items():
        for record in file.records:
            prompt_id = f"{dataset}/{split}/{record.index}"
            collector.prompt(prompt_id, record.query, dataset, file.place, record.row)
            collector.outcome(
                prompt_id,
                model,
                score=record.score,
                cost_usd=record.cost_usd,
                prompt_tokens=record.prompt_tokens,
                completion_tokens=record.completion_tokens,
                response=record.response,
                file=file.place,
                row=record.row,
            )
    return collector.tables(options)


def _result_files(path: Path) -> Iterator[tuple[str, bytes]]:
    patterns = ("*.json", *(f"*{suffix}" for suffix in ARCHIVES))
    files = find_files(path, patterns, "LLMRouterBench result file")
    for file in files:
        if file.name.endswith(ARCHIVES):
            yield from _archived(file)
        elif file == path or TIMESTAMP.search(file.name):
            yield str(file), file.read_bytes()


def _archived(file: Path) -> Iterator[tuple[str, bytes]]:
    """Stream the members; nothing is extracted, so no member can write outside its folder."""
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                if member.isfile() and TIMESTAMP.search(member.name):
                    stream = archive.extractfile(member)
                    if stream is not None:
                        yield f"{file}:{member.name}", stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{file}: cannot be read as an archive: {error}") from None


def _records(body: dict[str, Any], place: str, shared: dict[str, str]) -> tuple[_Record, ...]:
    records = key_of(body, "records", place, 1)
    if not isinstance(records, list):
        raise InputError(f"{place}: key 'records': {type(records).__name__}; allowed: a list")
    parsed = []
    for row, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise InputError(f"{place}: record {row}: {type(record).__name__}; allowed: an object")
        query = _query(record, place, row)
        values = {
            name: number(record.get(name), place, row, name)
            for name in ("score", "cost", "prompt_tokens", "completion_tokens")
        }
        answer = record.get("raw_output")
        parsed.append(
            _Record(
                row,
                text_of(record, "index", place, row),
                shared.setdefault(query, query),
                values["score"],
                values["cost"] or None,
                values["prompt_tokens"],
                values["completion_tokens"],
                len(answer) if isinstance(answer, str) else None,
            )
        )
    return tuple(parsed)


def _query(record: dict[str, Any], place: str, row: int) -> str:
    query = record.get("origin_query") or key_of(record, "prompt", place, row)
    if isinstance(query, str) and query.strip():
        return query
    if isinstance(query, list | dict) and query:
        return json.dumps(query, ensure_ascii=False)
    raise InputError(f"{place}: row {row}: neither 'origin_query' nor 'prompt' holds a text")


def _load_csv(path: Path, options: LoaderOptions) -> LoadedTables:
    if options.prompts is None:
        raise InputError(
            f"{path}: this csv has no prompt texts; give data.prompts=TABLE with prompt_id and prompt"
        )
    known = to_polars(read_table(PROMPTS, options.prompts, columns=options.prompt_columns))
    prompts = dict(zip(known["prompt_id"], known["prompt"]))
    frame = read_csv_text(path)
    need_columns(frame.columns, CSV_COLUMNS, path)
    ids, models, datasets = (texts(frame[name], path, name) for name in ("prompt_id", "model", "dataset"))
    values = {
        name: numbers(frame[name], path, name) if name in frame.columns else [None] * frame.height
        for name in ("score", "cost", "prompt_tokens", "completion_tokens")
    }
    collector = Collector(path)
    for row, (prompt_id, model, dataset) in enumerate(zip(ids, models, datasets), start=1):
        if prompt_id not in prompts:
            raise InputError(
                f"{path}: row {row}, column 'prompt_id': '{prompt_id}' is not in {options.prompts}"
            )
        collector.prompt(prompt_id, prompts[prompt_id], dataset, path, row)
        collector.outcome(
            prompt_id,
            model,
            score=values["score"][row - 1],
            cost_usd=values["cost"][row - 1] or None,
            prompt_tokens=values["prompt_tokens"][row - 1],
            completion_tokens=values["completion_tokens"][row - 1],
            file=path,
            row=row,
        )
    return collector.tables(options)
