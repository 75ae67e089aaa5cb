"""The per-model numbers beside the identity vector: mean log cost, its residual spread, recalibration."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from policies.llm_bandit.identity_vectors import Arms, ScoringNetwork, log_output_cost
from policies.llm_bandit.observations import Observations
from policies.outcome_model.cost_term import expected_cost_term
from policies.preference import cost_term

FEW_COSTS = 5
"""With fewer costs a model's own deviation and ratio are noise; the pool's stand in."""

SIGMA_INFLATION = 1.05
"""Residuals of the training prompts are a little smaller than those of new ones."""


def measured_arms(
    network: ScoringNetwork,
    models: tuple[str, ...],
    identity: npt.NDArray[np.float32],
    identity_std: npt.NDArray[np.float32],
    observations: Observations,
    log_cost: npt.NDArray[np.float64],
    log_cost_mean: npt.NDArray[np.float64],
    input_price_per_token_usd: npt.NDArray[np.float64],
    *,
    default_sigma: float | None = None,
) -> Arms:
    """Return arms whose expected costs agree on average with the observed ones.

    Args:
        network: frozen.
        models: K names.
        identity: shape (K, m), posterior means; identity_std alike.
        observations: n rows over the K models.
        log_cost: shape (n, K), log output costs, NaN where not observed.
        log_cost_mean: shape (K,), what log output costs were centred by.
        input_price_per_token_usd: shape (K,).
        default_sigma: deviation of a model with few costs; None takes that of all these observations.
    """
    k = len(models)
    arms = Arms(
        models,
        identity,
        identity_std,
        log_cost_mean,
        np.ones(k),
        np.ones(k),
        np.asarray(input_price_per_token_usd, dtype=np.float64),
    )
    seen = np.isfinite(log_cost)
    count = seen.sum(axis=0)
    tokens = observations.prompt_tokens
    loadings = network.loadings(network.inputs(observations.embeddings, tokens))
    expected = log_output_cost(network, loadings, arms)
    residual = np.where(seen, np.nan_to_num(log_cost) - expected, 0.0)
    pooled = (
        default_sigma if default_sigma else float(np.sqrt((residual**2).sum() / max(1, seen.sum()))) or 1.0
    )
    own = np.sqrt((residual**2).sum(axis=0) / np.maximum(count, 1))
    sigma = np.maximum(SIGMA_INFLATION * np.where(count >= FEW_COSTS, own, pooled), 1e-3)
    prompt_cost = tokens[:, None] * arms.input_price_per_token_usd
    predicted = np.where(seen, expected_cost_term(expected, sigma, prompt_cost, network.tau_usd), 0.0)
    observed = np.where(seen, cost_term(np.nan_to_num(observations.costs_usd), network.tau_usd), 0.0)
    ratio = observed.sum(axis=0) / np.maximum(predicted.sum(axis=0), 1e-12)
    return Arms(
        models,
        identity,
        identity_std,
        log_cost_mean,
        sigma,
        np.where((count >= FEW_COSTS) & (ratio > 0.0), ratio, 1.0),
        arms.input_price_per_token_usd,
    )
