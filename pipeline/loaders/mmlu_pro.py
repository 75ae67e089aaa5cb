"""MMLU-Pro evaluation outputs (arXiv 2406.01574): ``eval_results/model_outputs_<model>_5shots.zip``.

Each zip (or the .json in it) holds a list of questions with the model's extracted letter ``pred`` and its
answer, or an object of such lists by category. Costs and tokens are not recorded.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.loaders.assemble import Collector
from pipeline.loaders.base import LoadedTables, LoaderOptions
from pipeline.loaders.reading import find_files, key_of, parse_json, text_of
from policies.errors import InputError

ANSWER_KEYS = ("model_outputs", "response", "generated_text")
LETTERS = "ABCDEFGHIJKLMNOP"
# The evaluation code's own chain, first match wins.
_EXTRACT = (
    re.compile(r"answer is \(?([A-J])\)?"),
    re.compile(r".*[aA]nswer:\s*([A-J])"),
    re.compile(r"([A-J])(?=[^A-J]*$)"),
)


@dataclass(frozen=True)
class _Answer:
    place: str
    row: int
    question_id: str
    category: str
    prompt: str
    model: str
    score: float | None
    chars: int | None


def load(path: Path, options: LoaderOptions) -> LoadedTables:
    """Read one model's outputs, or those of every model below a folder.

    The question set was revised between evaluations. Of several texts under one id the most frequent is kept;
    answers to another text are missing pairs, never joined to the wrong question.
    """
    files = find_files(path, ("model_outputs_*.zip", "model_outputs_*.json"), "MMLU-Pro outputs")
    shared: dict[str, str] = {}
    answers = [answer for file in files for answer in _answers(file, shared)]
    versions: dict[str, Counter[str]] = defaultdict(Counter)
    for answer in answers:
        versions[answer.question_id][answer.prompt] += 1
    current = {question: counts.most_common(1)[0][0] for question, counts in versions.items()}
    collector = Collector(path)
    revised = 0
    for answer in answers:
        if answer.prompt != current[answer.question_id]:
            revised += 1
            continue
        prompt_id = f"mmlu_pro/{answer.question_id}"
        collector.prompt(prompt_id, answer.prompt, answer.category, answer.place, answer.row)
        collector.outcome(
            prompt_id,
            answer.model,
            score=answer.score,
            response=answer.chars,
            file=answer.place,
            row=answer.row,
        )
    if revised:
        collector.notes.append(f"{revised} answers to another revision of their question left out")
    return collector.tables(options)


def model_name(file: Path) -> str:
    """Return the model of an output file's name."""
    stem = file.name.removesuffix(".zip").removesuffix(".json").removeprefix("model_outputs_")
    return re.sub(r"_\d+shots?$", "", stem)


def extract_letter(answer: str) -> str | None:
    """Return the letter that an answer chooses, by the evaluation code's rules; None if it chooses none."""
    for pattern in _EXTRACT:
        match = pattern.search(answer)
        if match:
            return match.group(1)
    return None


def _answers(file: Path, shared: dict[str, str]) -> Iterator[_Answer]:
    for place, raw in _members(file):
        body = parse_json(raw, place)
        groups = list(body.values()) if isinstance(body, dict) else [body]
        if not all(isinstance(group, list) for group in groups):
            raise InputError(f"{place}: allowed: a list of questions, or an object of such lists")
        for row, entry in enumerate((entry for group in groups for entry in group), start=1):
            if not isinstance(entry, dict):
                raise InputError(f"{place}: row {row}: {type(entry).__name__}; allowed: an object")
            prompt = _prompt(entry, place, row)
            score, chars = _score(entry, place, row)
            yield _Answer(
                place,
                row,
                text_of(entry, "question_id", place, row),
                text_of(entry, "category", place, row),
                shared.setdefault(prompt, prompt),
                model_name(file),
                score,
                chars,
            )


def _members(file: Path) -> Iterator[tuple[str, bytes]]:
    if file.suffix != ".zip":
        yield str(file), file.read_bytes()
        return
    try:
        with zipfile.ZipFile(file) as archive:
            names = [
                name
                for name in archive.namelist()
                if name.endswith(".json") and "summary" not in name.lower() and "__MACOSX" not in name
            ]
            if not names:
                raise InputError(f"{file}: holds no .json file; it has: {', '.join(archive.namelist()[:10])}")
            for name in names:
                yield f"{file}:{name}", archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise InputError(f"{file}: not a readable zip file: {error}") from None


def _prompt(entry: dict[str, Any], place: str, row: int) -> str:
    options = key_of(entry, "options", place, row)
    if not isinstance(options, list):
        raise InputError(f"{place}: row {row}, key 'options': {type(options).__name__}; allowed: a list")
    lines = [text_of(entry, "question", place, row).strip()]
    real = [str(option).strip() for option in options if option != "N/A"]
    lines += [f"{letter}. {option}" for letter, option in zip(LETTERS, real)]
    return "\n".join(lines)


def _score(entry: dict[str, Any], place: str, row: int) -> tuple[float | None, int | None]:
    """Return 1 or 0 and the answer's length; an answer without a letter is wrong, no answer is missing."""
    texts = [entry[key] for key in ANSWER_KEYS if isinstance(entry.get(key), str)]
    answer = texts[0] if texts else None
    chosen = entry["pred"] if "pred" in entry else (extract_letter(answer) if answer else None)
    if not chosen and not answer:
        return None, None
    right = text_of(entry, "answer", place, row)
    return float(chosen == right), None if answer is None else len(answer)
