"""RouterArena cached results (``cached_results/<model>.jsonl``). Its rules forbid training: evaluation only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.loaders.assemble import Collector
from pipeline.loaders.base import LoadedTables, LoaderOptions
from pipeline.loaders.reading import find_files, jsonl_rows, key_of, number, text_of
from policies.errors import InputError

LOWEST_SCORE = -1.0
"""Some metrics go slightly below 0; these are clipped. Anything below this is an error."""


def load(path: Path, options: LoaderOptions) -> LoadedTables:
    """Read one model's file or every one of a folder (a checkout or its ``cached_results``)."""
    folder = path / "cached_results"
    collector = Collector(path)
    failed = clipped = 0
    for file in find_files(folder if folder.is_dir() else path, ("*.jsonl",), "RouterArena result file"):
        for row, body in jsonl_rows(file):
            index = text_of(body, "global_index", file, row)
            prompt = text_of(body, "question", file, row)
            collector.prompt(index, prompt, index.rpartition("_")[0] or None, file, row)
            if not key_of(body, "success", file, row):
                failed += 1
                continue
            result = _object(body, "evaluation_result", file, row)
            usage = _object(body, "token_usage", file, row)
            score = number(result.get("score"), file, row, "evaluation_result.score")
            if score is not None and LOWEST_SCORE <= score < 0.0:
                score, clipped = 0.0, clipped + 1
            cost = number(result.get("inference_cost"), file, row, "evaluation_result.inference_cost")
            answer = body.get("generated_answer")
            collector.outcome(
                index,
                text_of(body, "llm_selected", file, row),
                score=score,
                cost_usd=cost or None,
                prompt_tokens=number(usage.get("input_tokens"), file, row, "token_usage.input_tokens"),
                completion_tokens=number(usage.get("output_tokens"), file, row, "token_usage.output_tokens"),
                response=answer if isinstance(answer, str) else None,
                file=file,
                row=row,
            )
    if failed:
        collector.notes.append(f"{failed} failed calls left out: no observation, not a score of 0")
    if clipped:
        collector.notes.append(f"{clipped} negative scores clipped to 0")
    # The cache is appended to: the last row of a pair is the newest.
    return collector.tables(options, repeats="last")


def _object(body: dict[str, Any], key: str, file: Path, row: int) -> dict[str, Any]:
    value = body.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{file}: row {row}, key '{key}': {type(value).__name__}; allowed: an object")
    return value
