"""Pairwise comparisons of answers: checked at ingest, joined with training prompts by the learner."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.layout import RunLayout
from pipeline.tables import conform, data_files, read_any, to_polars
from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.errors import InputError
from policies.llm_bandit.observations import TIE, Comparisons
from policies.schemas import COMPARISONS

log = logging.getLogger(__name__)

JOINED_COMPARISONS = "comparisons.npz"
"""Name of the file that lies beside the columns of learners that take comparisons."""

TIE_NAME = "tie"


def read_comparisons(
    uri: str, prompt_ids: Collection[str], models: tuple[str, ...], priced: Collection[str] | None
) -> pl.DataFrame:
    """Read and check a table of comparisons; return those between two models of the pool.

    The same pair may be compared several times on one prompt, by several judges.

    Args:
        uri: file, directory or URI.
        prompt_ids: the prompts that there are.
        models: of the pool.
        priced: every model that may be named; None allows any.

    Raises:
        InputError: file, row and column of the first offence, the value and what is allowed; or no row is between
            two models of the pool.
    """
    fs, files = data_files(uri)
    known = set(prompt_ids)
    parts = []
    for path in files:
        part = to_polars(conform(COMPARISONS, read_any(fs, path), path))
        _check(part, path, known, priced)
        parts.append(part)
    table = pl.concat(parts)
    used = table.filter(pl.all_horizontal(pl.col("model_a", "model_b").is_in(list(models))))
    if used.is_empty():
        raise InputError(
            f"{uri}: none of the {table.height} comparisons is between two models of the pool ({', '.join(models)})"
        )
    return used


def comparisons_hash(table: pl.DataFrame) -> str:
    """Return a short hash of the comparisons, whatever their order."""
    rows = sorted(table.select(COMPARISONS.schema.names).rows())
    return hashlib.sha256("\x00".join("\x01".join(row) for row in rows).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class RunComparisons:
    """A run's comparisons, as the driver read them: learners elsewhere may not see the run's folder.

    Attributes:
        path: of the table.
        table: its rows.
    """

    path: Path
    table: pl.DataFrame

    @classmethod
    def of(cls, layout: RunLayout) -> Self | None:
        """Read the table; None where ingest was given none."""
        if not layout.comparisons.exists():
            return None
        return cls(layout.comparisons, pl.read_parquet(layout.comparisons))

    @cached_property
    def sha256(self) -> str:
        """Short hash of the whole table."""
        return comparisons_hash(self.table)

    def notes(self, joined: Comparisons) -> dict[str, Any]:
        """Return what a policy that learned from those joined says of them."""
        return {"comparisons": len(joined), "comparisons_sha256": self.sha256}

    def joined(self, data: OutcomeMatrix | LoggedFeedback) -> Comparisons | None:
        """Return those between two of the data's models on its prompts; None where there is none."""
        row_of = {prompt_id: row for row, prompt_id in enumerate(data.prompt_ids.tolist())}
        column_of = {model: column for column, model in enumerate(data.pool.models)}
        rows = _positions(self.table["prompt_id"], row_of)
        first, second = (_positions(self.table[name], column_of) for name in ("model_a", "model_b"))
        used = (rows >= 0) & (first >= 0) & (second >= 0)
        if not used.any():
            return None
        log.info("%s: %d of %d comparisons are on training prompts", self.path, used.sum(), len(used))
        won_by_first = (self.table["winner"] == self.table["model_a"]).to_numpy().astype(np.float64)
        wins = np.where((self.table["winner"] == TIE_NAME).to_numpy(), TIE, won_by_first)
        at = rows[used]
        return Comparisons(
            data.embeddings[at],
            np.asarray(data.prompt_tokens[at], dtype=np.float64),
            first[used],
            second[used],
            wins[used],
        )


def write_joined(path: Path, joined: Comparisons) -> None:
    """Write what a learner takes, as a file in an existing folder."""
    np.savez(path, **asdict(joined))


def read_joined(path: Path) -> Comparisons | None:
    """Read what :func:`write_joined` wrote; None where there is no such file."""
    if not path.exists():
        return None
    with np.load(path) as columns:
        return Comparisons(**columns)


def training_comparisons(
    compared: RunComparisons | None, data: OutcomeMatrix | LoggedFeedback
) -> Comparisons | None:
    """Return a run's comparisons on training prompts; None where ingest was given none.

    Raises:
        InputError: none is on a training prompt between two of the data's models.
    """
    if compared is None:
        return None
    found = compared.joined(data)
    if found is None:
        raise InputError(
            f"{compared.path}: none of the {compared.table.height} comparisons is between two models of pool "
            f"'{data.pool.name}' on a training prompt"
        )
    return found


def _positions(column: pl.Series, position_of: dict[str, int]) -> npt.NDArray[np.int64]:
    """Return each value's position, -1 where it has none, shape (n,)."""
    return np.array([position_of.get(value, -1) for value in column], dtype=np.int64)


def _check(table: pl.DataFrame, source: str, prompt_ids: set[str], priced: Collection[str] | None) -> None:
    for row, (prompt_id, first, second, winner) in enumerate(table.iter_rows(), start=1):
        if prompt_id not in prompt_ids:
            raise InputError(
                f"{source}: row {row}, column 'prompt_id': '{prompt_id}' is not in the prompts table"
            )
        for column, model in (("model_a", first), ("model_b", second)):
            if priced is not None and model not in priced:
                raise InputError(
                    f"{source}: row {row}, column '{column}': model '{model}' has no price in the pool file; "
                    "data.unknown_models=drop leaves such rows out"
                )
        if first == second:
            raise InputError(
                f"{source}: row {row}, column 'model_b': '{second}'; allowed: another than model_a"
            )
        if winner not in (first, second, TIE_NAME):
            raise InputError(
                f"{source}: row {row}, column 'winner': '{winner}'; allowed: {first}, {second}, {TIE_NAME}"
            )
