"""RouteLLM (arXiv 2406.18665): ``mmlu_<domain>.csv`` and ``gsm8k_responses.csv`` of its evaluation folder.

A column of True / False per model, for GSM8K also its response. No cost and no token is recorded.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.loaders.assemble import Collector
from pipeline.loaders.base import LoadedTables, LoaderOptions
from pipeline.loaders.reading import (
    find_files,
    jsonl_rows,
    need_columns,
    numbers,
    read_csv_text,
    text_of,
    texts,
)
from policies.errors import InputError

CONTAMINATED = "contaminated_prompts.jsonl"
RESPONSE_SUFFIX = "_response"
MMLU_ANSWER_TOKENS = 1.0
"""The MMLU answers were generated with ``max_new_tokens=1`` (the benchmark's generate_responses.py)."""


def load(path: Path, options: LoaderOptions) -> LoadedTables:
    """Read one csv file or every one below a folder, without the prompts listed as contaminated."""
    files = find_files(path, ("mmlu_*.csv", "gsm8k_responses.csv"), "RouteLLM csv file")
    lists, contaminated = _contaminated(path)
    collector = Collector(path)
    dropped = sum(_collect(file, contaminated, collector) for file in files)
    if lists:
        collector.notes.append(f"{dropped} contaminated prompts dropped ({len(lists)} lists)")
    else:
        collector.notes.append(f"no {CONTAMINATED} found: nothing was decontaminated")
    return collector.tables(options)


def _contaminated(path: Path) -> tuple[list[Path], set[str]]:
    # The MMLU list lies beside the folder of its csv files, the GSM8K list beside its csv file.
    near = {path / CONTAMINATED} if path.is_dir() else set()
    near |= {path.parent / CONTAMINATED}
    if path.is_file():
        near |= {path.parent.parent / CONTAMINATED}
    else:
        near |= set(path.rglob(CONTAMINATED))
    lists = sorted(file for file in near if file.is_file())
    return lists, {
        text_of(body, "eval_prompt", file, row) for file in lists for row, body in jsonl_rows(file)
    }


def _collect(file: Path, contaminated: set[str], collector: Collector) -> int:
    frame = read_csv_text(file)
    need_columns(frame.columns, ("prompt",), file)
    models = [
        name
        for name in frame.columns
        if name not in ("prompt", "")
        and not name.endswith(RESPONSE_SUFFIX)
        and not name.startswith("Unnamed")
    ]
    if not models:
        raise InputError(f"{file}: no model column; it has: {', '.join(frame.columns)}")
    task = file.stem.removesuffix("_responses")
    prompts = texts(frame["prompt"], file, "prompt")
    keep = [row for row, prompt in enumerate(prompts, start=1) if prompt not in contaminated]
    for row in keep:
        collector.prompt(f"{task}/{row}", prompts[row - 1], task, file, row)
    for model in models:
        scores = numbers(frame[model], file, model)
        response = model + RESPONSE_SUFFIX
        answers = frame[response].to_list() if response in frame.columns else None
        for row in keep:
            score = scores[row - 1]
            if score not in (0.0, 1.0, None):
                raise InputError(f"{file}: row {row}, column '{model}': {score:g}; allowed: True, False")
            collector.outcome(
                f"{task}/{row}",
                model,
                score=score,
                completion_tokens=MMLU_ANSWER_TOKENS if answers is None and score is not None else None,
                response=answers[row - 1] if answers is not None else None,
                file=file,
                row=row,
            )
    return len(prompts) - len(keep)
