"""Out-of-fold predictions and Platt calibration: what stage 2 may trust of stage 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from policies.errors import InputError
from policies.llm_bandit.identity_vectors import Arms, ScoringNetwork, predict
from policies.llm_bandit.irt_training import IrtSettings, Record, train_identity_vectors
from policies.llm_bandit.observations import Comparisons, Observations

Float64Array = npt.NDArray[np.float64]

MIN_PLATT_SLOPE = 0.05
"""A calibration that reversed or erased the order of predictions would come from noise."""


@dataclass(frozen=True)
class CalibratedModel:
    """Stage 1, calibrated, with predictions that no row's own outcome went into.

    Attributes:
        network: calibrated scoring network, trained on every row.
        arms: identity vectors of every model.
        scores: shape (n, K), calibrated out-of-fold scores of the training rows.
        cost_terms: shape (n, K), out-of-fold cost terms of the training rows.
        log_loss: mean cross-entropy of the out-of-fold scores, before and after calibration.
    """

    network: ScoringNetwork
    arms: Arms
    scores: Float64Array
    cost_terms: Float64Array
    log_loss: tuple[float, float]


def platt(logits: Float64Array, scores: Float64Array) -> tuple[float, float]:
    """Return slope and intercept of ``sigmoid(a logit + b)`` by maximum likelihood (Platt 1999).

    Args:
        logits: shape (n,), of rows that the predictor was not trained on.
        scores: shape (n,), in [0, 1]; a score between counts as that share of a success.
    """
    if len(scores) == 0 or scores.sum() <= 0.0 or scores.sum() >= len(scores):
        return 1.0, 0.0
    x = np.concatenate([logits, logits])[:, None]
    y = np.repeat([1, 0], len(scores))
    weight = np.concatenate([scores, 1.0 - scores])
    # A penalty this weak only keeps separable logits finite.
    fitted = LogisticRegression(C=1e4).fit(x, y, sample_weight=weight)
    return max(float(fitted.coef_[0, 0]), MIN_PLATT_SLOPE), float(fitted.intercept_[0])


def calibrated_identity_vectors(
    observations: Observations,
    models: tuple[str, ...],
    input_price_per_token_usd: Float64Array,
    tau_usd: float,
    settings: IrtSettings,
    *,
    folds: int = 3,
    comparisons: Comparisons | None = None,
    validation: Observations | None = None,
    seed: int = 0,
    record: Record | None = None,
    progress: Callable[[], object] = lambda: None,
) -> CalibratedModel:
    """Return stage 1 trained on all rows and calibrated on predictions from ``folds`` models trained without them.

    Stage 2 learns how far to trust a predicted score; shown predictions for rows that the predictor had learned
    by heart, it would trust them too far.

    Args:
        observations: n rows over K models.
        models: K names.
        input_price_per_token_usd: shape (K,).
        tau_usd: cost scale of the reward, USD.
        settings: of every training.
        folds: parts that the prompts are dealt into, at least 2.
        comparisons: used in every training.
        validation: other rows, measured by the training on all rows in each epoch.
        seed: of the trainings.
        record: called with each epoch's losses of the training on all rows.
        progress: called after each training.

    Raises:
        InputError: too few prompts, or nothing observed.
    """
    try:
        fold = observations.folds(folds)
    except ValueError as error:
        raise InputError(
            f"identity vectors: {error}; fewer policy.folds or more prompts are needed"
        ) from None

    def train(rows: Observations, part: int, record: Record | None = None) -> tuple[ScoringNetwork, Arms]:
        trained = train_identity_vectors(
            rows,
            models,
            input_price_per_token_usd,
            tau_usd,
            settings,
            comparisons=comparisons,
            validation=validation,
            seed=seed * (folds + 1) + part,
            record=record,
        )
        progress()
        return trained

    logits = np.empty(observations.scores.shape)
    cost_terms = np.empty(observations.scores.shape)
    for part in range(folds):
        held = fold == part
        network, arms = train(observations.rows(~held), part + 1)
        rows = observations.rows(held)
        inputs = network.inputs(rows.embeddings, rows.prompt_tokens)
        predicted = predict(network, arms, inputs, rows.prompt_tokens)
        logits[held], cost_terms[held] = predicted.logits, predicted.cost_terms
    seen = np.isfinite(observations.scores)
    slope, intercept = platt(logits[seen], observations.scores[seen])
    scores = expit(slope * logits + intercept)
    losses = tuple(_log_loss(p[seen], observations.scores[seen]) for p in (expit(logits), scores))
    network, arms = train(observations, 0, record)
    return CalibratedModel(
        replace(network, platt=(slope, intercept)), arms, scores, cost_terms, (losses[0], losses[1])
    )


def _log_loss(p: Float64Array, y: Float64Array) -> float:
    p = np.clip(p, 1e-6, 1.0 - 1e-6)
    return float(-np.mean(y * np.log(p) + (1.0 - y) * np.log(1.0 - p))) if len(y) else float("nan")
