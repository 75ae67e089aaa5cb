"""What stage 2 learns on: prompts with predicted and paid outcomes of every model."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import NearestNeighbors

from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.errors import InputError
from policies.llm_bandit.calibration import CalibratedModel
from policies.preference import cost_term
from policies.rllib.columns import write_columns

Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class DecisionTable:
    """n prompts over K models.

    Attributes:
        inputs: shape (n, p), the prompts' features.
        identity: shape (K, m).
        scores: shape (n, K), predicted and calibrated, from models that did not see the row.
        cost_terms: shape (n, K), predicted alike.
        paid_scores: shape (n, K), what a decision earns; 0 where not available.
        paid_cost_terms: shape (n, K), what it pays, in units of tau; 0 where not available.
        available: shape (n, K), models whose outcome is known (or estimated without bias).
        neighbours: shape (n, j), nearest other prompts in the space of ``inputs``.
    """

    inputs: Float32Array
    identity: Float32Array
    scores: Float32Array
    cost_terms: Float32Array
    paid_scores: Float32Array
    paid_cost_terms: Float32Array
    available: BoolArray
    neighbours: IntArray

    def __len__(self) -> int:
        return len(self.inputs)

    def write(self, directory: Path) -> None:
        """Write one ``.npy`` per array into a new folder."""
        write_columns(directory, {f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Map the arrays of a folder into memory."""
        return cls(**{f.name: np.load(directory / f"{f.name}.npy", mmap_mode="r") for f in fields(cls)})

    def arms(self, rows: IntArray, columns: IntArray) -> Float32Array:
        """Return tokens (n, N, m + 2) of prompts ``rows`` (n,) for candidates ``columns`` (n, N)."""
        at = rows[:, None]
        extras = np.stack([self.cost_terms[at, columns], self.scores[at, columns]], axis=2)
        return np.concatenate([self.identity[columns], extras], axis=2)


def nearest_neighbours(inputs: Float32Array, count: int) -> IntArray:
    """Return each row's nearest other rows, shape (n, min(count, n - 1)); the row itself where it is alone."""
    n = len(inputs)
    if n == 1:
        return np.zeros((1, 1), dtype=np.int64)
    found = NearestNeighbors(n_neighbors=min(count, n - 1)).fit(inputs)
    return found.kneighbors(return_distance=False).astype(np.int64)


def paid_outcomes(
    scores: npt.NDArray[np.float64],
    cost_terms: npt.NDArray[np.float64],
    observed: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
    log: tuple[IntArray, npt.NDArray[np.float64], BoolArray] | None,
    importance_clip: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], BoolArray]:
    """Return what each decision is paid: score, cost term, availability, all of shape (n, K).

    With full information these are the observed outcomes. From a log they are doubly robust pseudo-outcomes,
    ``y_hat_k + 1{k = a} (y - y_hat_a) / p`` with out-of-fold predictions y_hat (Dudik, Langford, Li 2011): unbiased
    for every model that could have been called, up to the clip on 1 / p.

    Args:
        scores: shape (n, K), out-of-fold predictions; cost_terms alike.
        observed: observed scores and cost terms, shape (n, K), NaN where not observed.
        log: actions (n,), propensities (n,) and eligible (n, K) of a log; None for full information.
        importance_clip: largest 1 / p.

    Raises:
        InputError: no row has an observed outcome.
    """
    known = np.isfinite(observed[0]) & np.isfinite(observed[1])
    if not known.any():
        raise InputError("no row has an observed score and cost: nothing to learn from")
    if log is None:
        return np.where(known, observed[0], 0.0), np.where(known, observed[1], 0.0), known
    _, propensities, eligible = log
    weight = np.where(known, np.minimum(1.0 / propensities, importance_clip)[:, None], 0.0)
    paid = [
        predicted + weight * (np.where(known, seen, 0.0) - np.where(known, predicted, 0.0))
        for predicted, seen in ((scores, observed[0]), (cost_terms, observed[1]))
    ]
    return paid[0], paid[1], eligible


MAX_PROMPTS = 50_000
"""Stage 2 draws so few decisions that more prompts than these would hardly be seen twice."""

NEIGHBOURS = 5


def decision_table(
    data: OutcomeMatrix | LoggedFeedback, model: CalibratedModel, *, importance_clip: float, seed: int
) -> DecisionTable:
    """Return the table of training rows, as stage 1 was trained on them; a sample of very many.

    Args:
        data: n rows; a log's are all scored.
        model: stage 1 with out-of-fold predictions of these rows.
        importance_clip: largest 1 / propensity of a log.
        seed: of the sample.

    Raises:
        InputError: no row has an observed score and cost.
    """
    rows = np.arange(len(data))
    if len(rows) > MAX_PROMPTS:
        rows = np.sort(np.random.default_rng([seed, 2]).choice(rows, MAX_PROMPTS, replace=False))
        data = data.rows(rows)
    log = None
    scores = data.scores
    costs = np.asarray(cost_term(data.costs_usd, model.network.tau_usd), dtype=np.float64)
    if isinstance(data, LoggedFeedback):
        log = (data.actions, data.propensities, data.eligible)
        seen = np.arange(data.eligible.shape[1]) == data.actions[:, None]
        scores, costs = (np.where(seen, values[:, None], np.nan) for values in (scores, costs))
    predicted_scores, predicted_costs = model.scores[rows], model.cost_terms[rows]
    paid_scores, paid_costs, available = paid_outcomes(
        predicted_scores, predicted_costs, (scores, costs), log, importance_clip
    )
    inputs = model.network.inputs(data.embeddings, data.prompt_tokens)
    single = np.float32
    return DecisionTable(
        inputs,
        model.arms.identity,
        predicted_scores.astype(single),
        predicted_costs.astype(single),
        paid_scores.astype(single),
        paid_costs.astype(single),
        available,
        nearest_neighbours(inputs, NEIGHBOURS),
    )
