"""Reading pairwise comparisons of answers and joining them with training prompts."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipeline.tables import conform, data_files, read_any
from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.errors import InputError
from policies.llm_bandit.observations import TIE, Comparisons
from policies.schemas import COMPARISONS

log = logging.getLogger(__name__)

TIE_NAME = "tie"


def load_comparisons(uri: str, data: OutcomeMatrix | LoggedFeedback) -> Comparisons:
    """Return the comparisons over the pool's models on training prompts; those of other prompts are left out.

    The same pair may be compared several times on one prompt, by several judges.

    Raises:
        InputError: the table is malformed, a winner took no part, or nothing is left.
    """
    fs, files = data_files(uri)
    table = pa.concat_tables(
        [_checked(conform(COMPARISONS, read_any(fs, path), path), path) for path in files]
    )
    row_of = {prompt_id: row for row, prompt_id in enumerate(data.prompt_ids.tolist())}
    rows = _positions(table["prompt_id"], row_of)
    column_of = {model: column for column, model in enumerate(data.pool.models)}
    first, second = (_positions(table[name], column_of) for name in ("model_a", "model_b"))
    used = (rows >= 0) & (first >= 0) & (second >= 0)
    if not used.any():
        raise InputError(
            f"{uri}: none of the {len(used)} comparisons is between two models of pool '{data.pool.name}' on a "
            "training prompt"
        )
    if not used.all():
        log.info("%s: %d of %d comparisons are used", uri, used.sum(), len(used))
    winner, a = (np.array(table[name].to_pylist(), dtype=object) for name in ("winner", "model_a"))
    wins = np.where(winner == TIE_NAME, TIE, (winner == a).astype(np.float64))
    at = rows[used]
    return Comparisons(
        data.embeddings[at],
        np.asarray(data.prompt_tokens[at], dtype=np.float64),
        first[used],
        second[used],
        wins[used].astype(np.float64),
    )


def _positions(column: pa.ChunkedArray, position_of: dict[str, int]) -> np.ndarray:
    """Return each value's position, -1 where it has none, shape (n,)."""
    values: Sequence[str] = column.to_pylist()
    return np.array([position_of.get(value, -1) for value in values], dtype=np.int64)


def _checked(table: pa.Table, source: str) -> pa.Table:
    a, b, winner = (table[name].to_pylist() for name in ("model_a", "model_b", "winner"))
    for row, (first, second, won) in enumerate(zip(a, b, winner, strict=True), start=1):
        if first == second:
            raise InputError(
                f"{source}: row {row}, column 'model_b': '{second}'; allowed: another than model_a"
            )
        if won not in (first, second, TIE_NAME):
            raise InputError(
                f"{source}: row {row}, column 'winner': '{won}'; allowed: {first}, {second}, {TIE_NAME}"
            )
    return table
