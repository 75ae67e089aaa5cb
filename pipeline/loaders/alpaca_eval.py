"""AlpacaEval annotations (``results/<model>/<annotator>/annotations.json``): preferences against one reference.

``preference`` is 1 where the judge prefers the reference's answer, 2 where it prefers the model's, between
them for a weighted judge; score = preference - 1. ``price_per_example`` is the judge's bill, not the model's.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pipeline.loaders.assemble import Collector
from pipeline.loaders.base import LoadedTables, LoaderOptions
from pipeline.loaders.reading import find_files, key_of, number, parse_json, text_of
from policies.errors import InputError

PREFERRED_ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"
"""AlpacaEval 2's default judge, taken where a folder holds the judgements of several."""
DRAW = 1.5
USED_KEYS = ("instruction", "dataset", "generator_1", "generator_2", "output_2", "annotator", "preference")


def load(path: Path, options: LoaderOptions) -> LoadedTables:
    """Read one annotations file, or those of every model below a folder."""
    entries = [
        entry for file in find_files(path, ("annotations.json",), "annotations") for entry in _entries(file)
    ]
    annotator = _annotator(entries, path)
    collector = Collector(path)
    reference: tuple[str, Path, int] | None = None
    for file, row, body in entries:
        if body.get("annotator") != annotator:
            continue
        baseline = text_of(body, "generator_1", file, row)
        reference = reference or (baseline, file, row)
        if baseline != reference[0]:
            raise InputError(
                f"{file}: row {row}, key 'generator_1': reference '{baseline}' differs from '{reference[0]}' of "
                f"{reference[1]}: row {reference[2]}; scores against two references do not compare"
            )
        instruction = text_of(body, "instruction", file, row)
        task = body.get("dataset")
        key = f"{task}\x00{instruction}".encode()
        prompt_id = f"alpaca_eval/{hashlib.blake2b(key, digest_size=8).hexdigest()}"
        collector.prompt(prompt_id, instruction, None if task is None else str(task), file, row)
        answer = key_of(body, "output_2", file, row)
        collector.outcome(
            prompt_id,
            text_of(body, "generator_2", file, row),
            score=_score(body, file, row),
            response=answer if isinstance(answer, int) else None,
            file=file,
            row=row,
        )
    collector.notes.append(
        f"judge '{annotator}'; the reference '{reference[0] if reference else None}' has no score"
    )
    return collector.tables(options, repeats="first")


def _entries(file: Path) -> list[tuple[Path, int, dict[str, Any]]]:
    body = parse_json(file.read_bytes(), str(file))
    if not isinstance(body, list) or not all(isinstance(entry, dict) for entry in body):
        raise InputError(f"{file}: allowed: a list of annotation objects")
    return [(file, row, _slim(entry)) for row, entry in enumerate(body, start=1)]


def _slim(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what is used, with the answer's length for its text: the answers of all models take gigabytes."""
    kept = {key: entry[key] for key in USED_KEYS if key in entry}
    if isinstance(entry.get("output_2"), str):
        kept["output_2"] = len(entry["output_2"])
    return kept


def _annotator(entries: list[tuple[Path, int, dict[str, Any]]], path: Path) -> Any:
    names = {body.get("annotator") for _, _, body in entries}
    if len(names) <= 1 or PREFERRED_ANNOTATOR in names:
        return PREFERRED_ANNOTATOR if PREFERRED_ANNOTATOR in names else next(iter(names), None)
    raise InputError(
        f"{path}: judgements of several annotators ({', '.join(sorted(map(str, names)))}) and none of "
        f"{PREFERRED_ANNOTATOR}; their scores do not compare: give data.path of one"
    )


def _score(body: dict[str, Any], file: Path, row: int) -> float | None:
    preference = number(key_of(body, "preference", file, row), file, row, "preference")
    if preference is None:
        return None
    if preference == 0.0:  # the oldest annotations wrote a draw as 0
        preference = DRAW
    if not 1.0 <= preference <= 2.0:
        raise InputError(
            f"{file}: row {row}, key 'preference': {preference:g}; allowed: [1, 2], or 0 for a draw"
        )
    return preference - 1.0
