"""What a loader is, what it is given and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from policies.pool import PoolFile


@dataclass(frozen=True)
class LoaderOptions:
    """What every loader is told besides the path.

    Attributes:
        pool_file: prices; a missing cost is computed from them.
        unknown_models: ``error`` refuses a model without a price, ``drop`` leaves its rows out.
        prompts: prompts table (``prompt_id``, ``prompt``) for formats that carry no prompt text.
        prompt_columns: input columns of that table where the names differ.
    """

    pool_file: PoolFile
    unknown_models: Literal["error", "drop"] = "error"
    prompts: str | None = None
    prompt_columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedTables:
    """A benchmark in the contracts of :mod:`policies.schemas`.

    Attributes:
        prompts: columns of ``PROMPTS``.
        outcomes: columns of ``OUTCOMES``; ``cost_estimated`` is true where the source gave no cost.
        notes: what was left out or changed on the way, one sentence each.
    """

    prompts: pl.DataFrame
    outcomes: pl.DataFrame
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hub:
    """Where a benchmark's files lie on the Hugging Face hub.

    Attributes:
        repo_id: data set repository.
        patterns: the files that the loader reads.
    """

    repo_id: str
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Loader:
    """One benchmark format.

    Attributes:
        title: what messages and documents call it.
        load: ``(path, options) -> LoadedTables``; raises ``InputError`` naming file and row or key.
        origin: where its files come from, in words.
        hub: None when its files are not published on the hub.
        evaluation_only: the benchmark's rules forbid training on it.
    """

    title: str
    load: Callable[[Path, LoaderOptions], LoadedTables]
    origin: str
    hub: Hub | None = None
    evaluation_only: bool = False
