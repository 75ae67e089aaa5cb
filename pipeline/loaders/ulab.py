"""ulab LLMRouter routing data (``*_routing_*.jsonl``): one row a query and model, tokens but no cost."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.loaders.assemble import Collector
from pipeline.loaders.base import LoadedTables, LoaderOptions
from pipeline.loaders.reading import find_files, jsonl_rows, key_of, number, text_of
from policies.errors import InputError


def load(path: Path, options: LoaderOptions) -> LoadedTables:
    """Read one file or every ``*routing*.jsonl`` below a folder."""
    collector = Collector(path)
    for file in find_files(path, ("*routing*.jsonl",), "ulab LLMRouter file"):
        for row, body in jsonl_rows(file):
            prompt = text_of(body, "query", file, row) + _options(body.get("choices"), file, row)
            task = text_of(body, "task_name", file, row)
            prompt_id = _prompt_id(task, prompt, body)
            collector.prompt(prompt_id, prompt, task, file, row)
            answer = body.get("response")
            collector.outcome(
                prompt_id,
                text_of(body, "model_name", file, row),
                score=number(key_of(body, "performance", file, row), file, row, "performance"),
                prompt_tokens=number(body.get("input_tokens"), file, row, "input_tokens"),
                completion_tokens=number(body.get("output_tokens"), file, row, "output_tokens"),
                latency_s=number(body.get("response_time"), file, row, "response_time"),
                response=answer if isinstance(answer, str) else None,
                file=file,
                row=row,
            )
    # Benchmarks repeat questions, and every copy was answered anew: one sample of each pair is enough.
    return collector.tables(options, repeats="first")


def _prompt_id(task: str, prompt: str, body: dict[str, Any]) -> str:
    # What the data's own documentation calls a unique query.
    key = "\x00".join([task, prompt, str(body.get("ground_truth")), str(body.get("metric"))])
    return f"{task}/{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}"


def _options(choices: Any, file: Path, row: int) -> str:
    """Return the lettered options of a multiple-choice query, which the models saw; '' if there are none."""
    if not choices:
        return ""
    try:
        body = json.loads(choices) if isinstance(choices, str) else choices
        texts, labels = body["text"], body["labels"]
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{file}: row {row}, key 'choices': neither null nor an object with 'text' and 'labels'"
        ) from None
    return "".join(f"\n{label}. {text}" for label, text in zip(labels, texts))
