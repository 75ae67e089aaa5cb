"""Bytes to checked values: JSON, JSON Lines and CSV with errors that name file, row and key."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from policies.errors import InputError

SECRET_PREFIX = "api_key"
"""Fields whose name starts so are dropped while a row is read, so that no later step can show them."""

_WORDS = {"true": 1.0, "false": 0.0}
_MISSING_WORDS = {"", "nan", "none", "null", "na", "n/a"}


def find_files(path: Path, patterns: Sequence[str], what: str) -> list[Path]:
    """Return ``path`` if it is a file, else the sorted files below it that match a glob pattern.

    Raises:
        InputError: nothing is there, or nothing matches.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or directory")
    found = sorted({file for pattern in patterns for file in path.rglob(pattern) if file.is_file()})
    if not found:
        raise InputError(f"{path}: holds no {what}; looked for {', '.join(patterns)}")
    return found


def parse_json(raw: bytes | str, place: str) -> Any:
    """Return the JSON value of ``raw`` without its ``api_key*`` fields; the text itself is never quoted in errors.

    Raises:
        InputError: not JSON; ``place`` names the file and row.
    """
    try:
        # The hook makes parsing several times slower: most files have nothing for it to drop.
        marked = SECRET_PREFIX.encode() in raw if isinstance(raw, bytes) else SECRET_PREFIX in raw
        return json.loads(raw, object_pairs_hook=_without_secrets if marked else None)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{place}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except ValueError:
        raise InputError(f"{place}: not UTF-8 text") from None


def _without_secrets(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if not key.startswith(SECRET_PREFIX)}


def jsonl_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(row number from 1, object)`` of a JSON Lines file.

    Lines end at a line feed only: ``str.splitlines`` would also cut at U+2028 and its kin inside strings.

    Raises:
        InputError: a line is not a JSON object.
    """
    with path.open("rb") as stream:
        for row, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            body = parse_json(line, f"{path}: row {row}")
            if not isinstance(body, dict):
                raise InputError(f"{path}: row {row}: {type(body).__name__}; allowed: an object")
            yield row, body


def key_of(body: dict[str, Any], key: str, path: object, row: int) -> Any:
    """Return ``body[key]``.

    Raises:
        InputError: the key is missing.
    """
    if key not in body:
        raise InputError(f"{path}: row {row}: key '{key}' is missing; it has: {', '.join(sorted(body))}")
    return body[key]


def text_of(body: dict[str, Any], key: str, path: object, row: int) -> str:
    """Return the non-empty text ``body[key]``; integers are written out.

    Raises:
        InputError: the key is missing, or holds no text.
    """
    value = key_of(body, key, path, row)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{path}: row {row}, key '{key}': {_shown(value)}; allowed: non-empty text")
    return value


def number(value: Any, path: object, row: int, column: str) -> float | None:
    """Return a finite number; None for a missing observation (null, NaN, empty text).

    Numbers written as text and ``True`` / ``False`` are read as such.

    Raises:
        InputError: anything else.
    """
    if type(value) is float and math.isfinite(value):  # nearly every cell of the large tables
        return value
    if value is None or type(value).__name__ == "NAType":
        return None
    parsed = math.inf
    with contextlib.suppress(TypeError, ValueError):
        if isinstance(value, str):
            word = value.strip().lower()
            if word in _MISSING_WORDS:
                return None
            parsed = _WORDS[word] if word in _WORDS else float(word)
        else:
            parsed = float(value)
    if math.isnan(parsed):
        return None
    if math.isinf(parsed):
        raise InputError(f"{path}: row {row}, column '{column}': {_shown(value)}; allowed: a finite number")
    return parsed


def numbers(values: Iterable[Any], path: object, column: str) -> list[float | None]:
    """Return :func:`number` of every cell of a column."""
    return [number(value, path, row, column) for row, value in enumerate(values, start=1)]


def texts(values: Iterable[Any], path: object, column: str) -> list[str]:
    """Return the cells of a text column.

    Raises:
        InputError: a cell is missing or empty.
    """
    cells = []
    for row, value in enumerate(values, start=1):
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        if missing or not str(value).strip():
            raise InputError(f"{path}: row {row}, column '{column}': empty; a value is required")
        cells.append(str(value))
    return cells


def read_csv_text(path: Path) -> pl.DataFrame:
    """Return a CSV file with every cell as text; quoted cells may span lines.

    Raises:
        InputError: the file cannot be parsed or has no row.
    """
    try:
        frame = pl.read_csv(io.BytesIO(path.read_bytes()), infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: not a CSV table: {str(error).splitlines()[0]}") from None
    if frame.height == 0:
        raise InputError(f"{path}: the table is empty")
    return frame


def need_columns(columns: Iterable[str], needed: Sequence[str], path: object) -> None:
    """Check that a table has the columns.

    Raises:
        InputError: one is missing.
    """
    given = list(columns)
    for column in needed:
        if column not in given:
            raise InputError(f"{path}: column '{column}' is missing; it has: {', '.join(given[:30])}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
