"""Choosing a setting by what it is for: the reward of the decisions, not the error of the predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import KFold

from policies.baselines.value import Matrix, fit_cost_weights, linear
from policies.datasets import OutcomeMatrix
from policies.preference import cost_term, dial_grid

FOLDS = 5
Setting = TypeVar("Setting")


def best_by_reward(
    settings: Sequence[Setting],
    data: OutcomeMatrix,
    tau_usd: float,
    predict: Callable[[Setting, OutcomeMatrix, OutcomeMatrix], Matrix],
) -> Setting:
    """Return the setting whose decisions earn the most over the dial on prompts kept aside, five times.

    The best of several models' predictions is likely one that errs upwards. The penalty with the least squared
    error is therefore too small to decide with.

    Args:
        settings: tried, the first of equals wins.
        data: completely observed prompts.
        tau_usd: cost scale in USD.
        predict: ``(setting, train, held_out)`` to predicted scores of the latter, shape (n_held_out, n_models).
    """
    if len(settings) == 1 or len(data) < 2 * FOLDS:
        return settings[0]
    earned = np.zeros(len(settings))
    for train, held_out in _folds(data):
        costs = linear(held_out.embeddings, fit_cost_weights(train, tau_usd))
        for i, setting in enumerate(settings):
            earned[i] += dial_reward(predict(setting, train, held_out), costs, held_out, tau_usd)
    return settings[int(np.argmax(earned))]


def dial_reward(scores: Matrix, cost_terms: Matrix, data: OutcomeMatrix, tau_usd: float) -> float:
    """Return the summed reward over prompts and dial of calling the best predicted reward.

    Args:
        scores: predicted, shape (n, n_models).
        cost_terms: predicted, shape (n, n_models).
        data: what was observed.
        tau_usd: cost scale in USD.
    """
    observed: npt.NDArray[np.floating] = cost_term(data.costs_usd, tau_usd)
    rows, total = np.arange(len(data)), 0.0
    for w in dial_grid():
        chosen = ((1.0 - w) * scores - w * cost_terms).argmax(axis=1)
        total += float(((1.0 - w) * data.scores[rows, chosen] - w * observed[rows, chosen]).sum())
    return total


def _folds(data: OutcomeMatrix) -> Iterator[tuple[OutcomeMatrix, OutcomeMatrix]]:
    for train, held_out in KFold(FOLDS, shuffle=True, random_state=0).split(data.embeddings):
        yield data.rows(train), data.rows(held_out)
